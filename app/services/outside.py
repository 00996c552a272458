"""HTTP calls to web addresses that strangers name. What httpcore2 does not do cannot be turned against us: it follows no
redirect, knows no proxy, cookie or password, and decodes no content.
"""

import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpcore2
import httpx2

import app
from app.services.destinations import Destinations

# For one of a host's addresses; then the next one is tried.
CONNECT_SECONDS = 5.0
USER_AGENT = f"Cutout/{app.__version__}"


class Outside:
    """Calls strangers' web addresses, where `destinations` allows it. `tls` says whose certificates count."""

    def __init__(self, destinations: Destinations, tls: ssl.SSLContext | None = None) -> None:
        self.destinations = destinations
        self._tls = tls or httpcore2.default_ssl_context()

    @asynccontextmanager
    async def call(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore2.Response]:
        """Send one request on a connection of its own; the answer's body is there to be streamed. No redirect is followed.

        How long it may take is the caller's to bound, as with `asyncio.timeout`.

        Raises:
            NotAllowed: the host cannot be found, or may not be called.
            httpcore2's errors, OSError: it does not answer, or not properly.

        """
        connections = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls, max_keepalive_connections=0, network_backend=_Checked(self.destinations)
        )
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        named = {"Host": url.netloc.decode("ascii"), "User-Agent": USER_AGENT, **headers}
        asked = [(name.encode("ascii"), value.encode("ascii")) for name, value in named.items()]
        timeouts = {"timeout": {"connect": CONNECT_SECONDS}}
        async with (
            connections,
            connections.stream(method, target, headers=asked, content=content, extensions=timeouts) as answer,
        ):
            yield answer


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects to the addresses that were checked. TLS, above it, goes on speaking to the host by its name."""

    def __init__(self, destinations: Destinations) -> None:
        self._destinations = destinations
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await self._destinations.addresses(host, port):
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure
