"""HTTP calls to URLs that untrusted clients supply.

httpcore2 is used directly because it follows no redirects, uses no proxies, cookies or passwords, and decodes no
content.
"""

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import cache
from typing import Any

import httpcore2
import httpx2

from cutout.app.net.url_policy import UrlPolicy
from cutout.version import __version__

# Timeout for one of a host's addresses; then the next address is tried.
CONNECT_SECONDS = 5.0
# Limits on everything before the body: interim responses (1xx), status line and headers.
LARGEST_HEAD_BYTES = 32 * 1024
MOST_HEAD_LINES = 256
MOST_INTERIM_RESPONSES = 8
# h11 parses everything that one read returns without yielding to other tasks, so a head is read in small pieces.
HEAD_PIECE_BYTES = 2048
# Pieces of a body that were already received come without any wait; yield to other tasks after this many.
PIECES_PER_TURN = 64
# Chunks of a few bytes cost far more time than their size suggests. After FIRST_PIECES pieces, the average size of a
# piece must be at least this many bytes.
SMALLEST_AVERAGE_PIECE = 64
FIRST_PIECES = 1000
USER_AGENT = f"Cutout/{__version__}"


@cache
def default_tls() -> ssl.SSLContext:
    """Return the system's trusted certificates. Reading them is slow, so they are cached."""
    return httpcore2.default_ssl_context()


class SafeHttpClient:
    """Calls untrusted URLs where `destinations` allows it. `tls` sets the trusted certificates."""

    def __init__(self, destinations: UrlPolicy, tls: ssl.SSLContext | None = None) -> None:
        self.destinations = destinations
        self._tls = tls

    @asynccontextmanager
    async def call(
        self, method: str, url: httpx2.URL, headers: Mapping[str, str], content: bytes | None = None
    ) -> AsyncIterator[httpcore2.Response]:
        """Send one request on a new connection; the response body can be streamed. Redirects are not followed.

        The caller must set a time limit, for example with `asyncio.timeout`.

        Raises:
            NotAllowed: the host cannot be found, or may not be called.
            httpcore2's errors, OSError: it does not answer, or not properly; also if its head exceeds the limits above.

        """
        head = _HeadLimits()
        connections = httpcore2.AsyncConnectionPool(
            ssl_context=self._tls or default_tls(),
            max_keepalive_connections=0,
            network_backend=_Checked(self.destinations, head),
        )
        target = httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        named = {"Host": url.netloc.decode("ascii"), "User-Agent": USER_AGENT, **headers}
        asked = [(name.encode("ascii"), value.encode("ascii")) for name, value in named.items()]
        timeouts = {"timeout": {"connect": CONNECT_SECONDS}}
        async with (
            connections,
            connections.stream(method, target, headers=asked, content=content, extensions=timeouts) as answer,
        ):
            head.is_complete = True
            yield answer


async def read_body(answer: httpcore2.Response) -> AsyncGenerator[bytes, None]:
    """Yield a body in pieces as they arrive, and let other tasks run in between.

    Raises:
        RemoteProtocolError: the pieces are too small on average.

    """
    pieces = received = 0
    async with aclosing(answer.aiter_stream()) as stream:
        async for piece in stream:
            pieces += 1
            received += len(piece)
            if pieces > FIRST_PIECES + received // SMALLEST_AVERAGE_PIECE:
                raise httpcore2.RemoteProtocolError("the body comes in too many small pieces")
            if pieces % PIECES_PER_TURN == 0:
                await asyncio.sleep(0)
            yield piece


class _HeadLimits:
    """Counts what has been received before the head of the final response is complete."""

    def __init__(self) -> None:
        self.is_complete = False
        self._received = bytearray()

    def check(self) -> None:
        """Return if more may be read. While the head is incomplete, all bytes so far belong to it.

        Raises:
            RemoteProtocolError: the server has sent too much without completing a head.

        """
        if (
            len(self._received) > LARGEST_HEAD_BYTES
            or self._received.count(b"\n") > MOST_HEAD_LINES
            # No header name can begin with this, so each match is a status line.
            or self._received.count(b"\nHTTP/") > MOST_INTERIM_RESPONSES
        ):
            raise httpcore2.RemoteProtocolError("too much data before the end of the response headers")

    def add(self, data: bytes) -> None:
        self._received += data


class _LimitedStream(httpcore2.AsyncNetworkStream):
    """A network stream that limits the size of a response's head."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream, head: _HeadLimits) -> None:
        self._stream = stream
        self._head = head

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        # Yield to other tasks: data that TLS has already decrypted is returned without any wait.
        await asyncio.sleep(0)
        if self._head.is_complete:
            return await self._stream.read(max_bytes, timeout)
        self._head.check()
        data = await self._stream.read(min(max_bytes, HEAD_PIECE_BYTES), timeout)
        self._head.add(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        encrypted = await self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _LimitedStream(encrypted, self._head)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Checked(httpcore2.AsyncNetworkBackend):
    """Connects only to the checked addresses. TLS, one layer above, still verifies the host by its name."""

    def __init__(self, destinations: UrlPolicy, head: _HeadLimits) -> None:
        self._destinations = destinations
        self._head = head
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
                stream = await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
                return _LimitedStream(stream, self._head)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure
