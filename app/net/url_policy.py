"""SSRF protection: which URLs the service may call for a client.

A service that fetches URLs from clients gives them a way into its own network: to databases, routers and the cloud's
metadata service with the host's credentials. So a URL is parsed strictly, its host is looked up here, and all of its
addresses must be public or in a network that the operator allows. Code that connects must use the addresses returned
here and must not look the name up again.
"""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpx2

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]

# All globally routed IPv6. Addresses that embed an IPv4 address (mapped, compatible, translated, NAT64) lie outside.
IPV6_UNICAST = ip_network("2000::/3")
# Networks to refuse although Python's ipaddress may call them global, which differs between its releases.
NOT_PUBLIC = [
    ip_network(network)
    for network in (
        "168.63.129.16",  # Azure's own services, on every virtual machine
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata is among them
        "192.88.99.0/24",  # relays to 6to4
        "2001::/23",  # protocol assignments: Teredo carries an IPv4 address, ORCHID is not routed
        "2002::/16",  # 6to4 carries an IPv4 address
        "3fff::/20",  # documentation
    )
]
LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
HOST_NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
LONGEST_HOST_NAME = 253
# Some parsers read a host whose last label looks like this as an IPv4 address in octal, hexadecimal or as one number.
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class NotAllowed(Exception):
    """A URL is malformed, or leads to a place that clients may not make the service call."""


# A separate thread pool: a name server that does not answer must not block database work.
_lookups = ThreadPoolExecutor(16, "lookup")


async def system_lookup(host: str, port: int) -> Sequence[str]:
    """Look up a host with the system's resolver, including its hosts file.

    Raises:
        OSError: there is no such host, or no name server answers.

    """
    ask = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_lookups, ask)
    return [str(entry[4][0]) for entry in found]


def is_public(address: Address) -> bool:
    """Return whether an address is a public unicast address that does not embed or translate to another address."""
    if isinstance(address, IPv6Address) and (address not in IPV6_UNICAST or address.scope_id is not None):
        return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not any(address in network for network in NOT_PUBLIC)
    )


class UrlPolicy:
    """The rules for URLs. The `allowed` networks may be called although they are not public."""

    def __init__(self, allowed: Iterable[Network] = (), lookup: Lookup = system_lookup) -> None:
        self._allowed = tuple(allowed)
        self._lookup = lookup

    def read(self, url: str, base: httpx2.URL | None = None) -> httpx2.URL:
        """Parse a URL strictly; with `base`, the URL may be relative to it.

        Raises:
            NotAllowed: it is malformed, not http(s), or contains a password or a disguised host.

        """
        try:
            found = httpx2.URL(url) if base is None else base.join(url)
        except (httpx2.InvalidURL, ValueError):
            raise NotAllowed("This is not a web address.") from None
        if found.scheme not in ("http", "https"):
            raise NotAllowed("A web address must begin with http:// or https://.")
        if found.userinfo:
            raise NotAllowed("A web address must not contain a user or password.")
        if found.port is not None and not 1 <= found.port <= 65535:
            raise NotAllowed("The port must be between 1 and 65535.")
        host = _host(found)
        if _literal(host) is None and not _is_name(host):
            raise NotAllowed("The host is neither a valid name nor an IP address in its usual form.")
        return found

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Look up a host; return all its addresses, each of which is allowed.

        The error message is the same for a host that does not exist and for one that may not be called, so that clients
        cannot learn which names exist in a private network.

        Raises:
            NotAllowed: it has no address, or one of them is not public.

        """
        literal = _literal(host)
        try:
            found = [literal] if literal else [ip_address(item) for item in await self._lookup(host, port)]
        except (OSError, ValueError):
            found = []
        if not found or not all(self._may_call(address) for address in found):
            raise NotAllowed(f"{host} cannot be found, or is not on the public internet.")
        return list(dict.fromkeys(found))

    def _may_call(self, address: Address) -> bool:
        return is_public(address) or any(address in network for network in self._allowed)


def _host(url: httpx2.URL) -> str:
    """Return the host as it is looked up: international names in ASCII, IPv6 without brackets."""
    return url.raw_host.decode("ascii")


def _literal(host: str) -> Address | None:
    """Return a host that is an IP address, else None. An address with a zone, such as `fe80::1%eth0`, is not valid in a
    URL.
    """
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _is_name(host: str) -> bool:
    return (
        len(host) <= LONGEST_HOST_NAME
        and HOST_NAME.fullmatch(host) is not None
        and NUMBER.fullmatch(host.rsplit(".", 1)[-1]) is None
    )
