"""Where a call comes from, as far as that can be known."""

from ipaddress import IPv6Address, ip_address, ip_network

from fastapi import Request

# What one customer of a provider has at least, so that an address more costs them nothing.
IPV6_PREFIX = 64


def client_of(request: Request) -> str:
    """Name whoever calls for counting their calls: an IPv4 address, or the /64 network of an IPv6 address.

    Behind a proxy that `CUTOUT_TRUSTED_PROXIES` does not name, all its callers are one: what they say of themselves in
    `X-Forwarded-For` anybody can write.
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
