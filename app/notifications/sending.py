"""Sending of a body to a URL that a user provides, in one attempt."""

import asyncio
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpcore2

from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import NotAllowed
from cutout.app.notifications.errors import NotDelivered


async def send(
    http_client: SafeHttpClient,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    seconds: float,
    at: datetime | None = None,
) -> tuple[int, timedelta]:
    """Send a body within `seconds`, DNS included. Return the status code, and how long to wait before another attempt.

    Redirects are not followed, and the body of the response is not read. `at` is the time of the call, default: now.

    Raises:
        NotDelivered: the URL is not allowed, or the server does not respond in time.

    """
    try:
        target = http_client.destinations.read(url)
    except NotAllowed as error:
        raise NotDelivered(str(error), final=True) from None
    answered: tuple[int, str] | None = None
    try:
        async with asyncio.timeout(seconds), http_client.call(method, target, headers, body) as answer:
            answered = answer.status, _header(answer, b"retry-after")
    except NotAllowed as error:
        raise NotDelivered(str(error)) from None
    except (
        TimeoutError,
        httpcore2.TimeoutException,
        httpcore2.NetworkError,
        httpcore2.ProtocolError,
        OSError,
    ) as error:
        # Errors after the response headers do not matter.
        if answered is None:
            raise NotDelivered(_why_no_answer(error, seconds)) from None
    assert answered is not None
    status, retry_after = answered
    return status, _duration(retry_after, at or datetime.now(UTC))


def _why_no_answer(error: Exception, seconds: float) -> str:
    """Return why a server did not answer a call that was to take at most this long."""
    if isinstance(error, TimeoutError | httpcore2.TimeoutException):
        return f"The server did not answer within {seconds:g} s."
    if isinstance(
        error.__context__, ssl.SSLError
    ):  # httpcore2 re-raises `from None`, which clears the cause and keeps the context
        return "No secure connection: the server's certificate cannot be verified."
    return "The server does not answer, or closed the connection."


def _header(answer: httpcore2.Response, wanted: bytes) -> str:
    """Return a header of an answer, by its name in lower case; empty if there is none."""
    return next(
        (value.decode("latin-1") for name, value in answer.headers if name.lower() == wanted), ""
    ).strip()


def _duration(retry_after: str, at: datetime) -> timedelta:
    """Parse a `Retry-After` header, in seconds or as a date, at this time; zero if it is neither."""
    try:
        if retry_after.isdecimal():
            return timedelta(seconds=int(retry_after))
        until = parsedate_to_datetime(retry_after)
        return (until if until.tzinfo else until.replace(tzinfo=UTC)) - at
    except (ValueError, OverflowError):
        return timedelta(0)
