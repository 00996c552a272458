"""Client addresses, used as keys of rate limits."""

from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request

# Providers give each customer at least a /64, so a new address within it costs the client nothing.
IPV6_PREFIX = 64


def client_of(request: Request) -> str:
    """Return the key for counting a client's calls: its IPv4 address, or the /64 network of its IPv6 address.

    All clients behind a proxy that `CUTOUT_TRUSTED_PROXIES` does not name count as one, because anybody can forge
    `X-Forwarded-For`.
    """
    host = request.client.host if request.client is not None else ""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ip_network((address, IPV6_PREFIX), strict=False))
    return str(address)
