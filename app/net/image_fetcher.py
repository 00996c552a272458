"""Fetch photos from URLs, with the size limit of an upload and a timeout."""

import asyncio
import ssl
from contextlib import aclosing

import httpcore2
import httpx2
import structlog

from cutout.app.core.errors import ImageTooLargeError, InvalidInputError
from cutout.app.net.safe_http import SafeHttpClient, read_body
from cutout.app.net.url_policy import NotAllowed
from cutout.inference.errors import Overloaded

log = structlog.get_logger()

MOST_REDIRECTS = 5
REDIRECTS = {301, 302, 303, 307, 308}
# Each fetch may hold as much memory as the largest upload, and a slow server holds it until the timeout.
MOST_AT_ONCE = 32
# Compressed content is neither requested nor accepted: decompressed, it may be a thousand times as large.
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity"}


class NotFetched(InvalidInputError):
    """A photo could not be fetched from its URL; the message says why and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"imageUrl: {reason} Check the address, or upload the photo as a file.")


class FetchedTooLarge(ImageTooLargeError):
    """A photo at a URL is larger than an upload may be."""


class ImageFetcher:
    """Fetches photos of at most `limit_bytes`, each within `seconds` including redirects."""

    def __init__(self, http_client: SafeHttpClient, limit_bytes: int, seconds: float) -> None:
        self._http_client = http_client
        self._limit_bytes = limit_bytes
        self._seconds = seconds
        self._running = 0

    def check(self, url: str) -> None:
        """Check how a URL is written, without calling it.

        Raises:
            NotFetched: it is malformed, not http(s), or contains a password or a disguised host.

        """
        try:
            self._http_client.destinations.read(url)
        except NotAllowed as error:
            raise NotFetched(str(error)) from None

    async def fetch(self, url: str) -> bytes:
        """Return the content at a URL.

        Raises:
            NotFetched: the URL is not allowed, not found, too slow, or its response is not acceptable.
            FetchedTooLarge: the content has too many bytes.
            Overloaded: the maximum number of fetches is already running.

        """
        if self._running >= MOST_AT_ONCE:
            raise Overloaded("Too many photos are being fetched. Try again in a moment.", self._seconds)
        self._running += 1
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except NotAllowed as error:
            log.info("photo not fetched", reason=str(error))
            raise NotFetched(str(error)) from None
        except (TimeoutError, httpcore2.TimeoutException):
            raise NotFetched(f"The photo was not received within {self._seconds:g} s.") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError) as error:
            if isinstance(error.__context__, ssl.SSLError):  # httpcore2 takes the cause away
                raise NotFetched(
                    "No secure connection: the server's certificate cannot be verified."
                ) from None
            raise NotFetched("The server does not answer, or closed the connection.") from None
        finally:
            self._running -= 1

    async def _follow(self, url: str) -> bytes:
        at = self._http_client.destinations.read(url)
        for _ in range(1 + MOST_REDIRECTS):
            found = await self._get(at)
            if isinstance(found, bytes):
                return found
            onwards = self._http_client.destinations.read(found, base=at)
            # A client that gave an https URL relies on TLS, so never fall back to plain http.
            if at.scheme == "https" and onwards.scheme != "https":
                raise NotFetched("The server redirects from https to http.")
            at = onwards
        raise NotFetched(f"The server redirects more than {MOST_REDIRECTS} times.")

    async def _get(self, url: httpx2.URL) -> bytes | str:
        """Return the content, or the location of a redirect."""
        async with self._http_client.call("GET", url, HEADERS) as answer:
            headers = {name.lower(): value.decode("utf-8", "replace") for name, value in answer.headers}
            if answer.status in REDIRECTS and b"location" in headers:
                return headers[b"location"]
            if answer.status != 200:
                raise NotFetched(f"The server answers {answer.status} instead of 200.")
            if headers.get(b"content-encoding", "identity").strip().lower() != "identity":
                raise NotFetched("The server compresses the response although it was asked not to.")
            # Always a number: httpcore2 rejects a response with any other content length.
            if int(headers.get(b"content-length", 0)) > self._limit_bytes:
                raise self._too_large()
            data = bytearray()
            async with aclosing(read_body(answer)) as parts:
                async for part in parts:
                    data += part
                    if len(data) > self._limit_bytes:
                        raise self._too_large()
            return bytes(data)

    def _too_large(self) -> FetchedTooLarge:
        return FetchedTooLarge(
            f"imageUrl: The photo is larger than {self._limit_bytes // 1_000_000} MB. Use a smaller one."
        )
