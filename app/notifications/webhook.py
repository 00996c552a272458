"""Webhooks: JSON sent to a URL that a user provides, signed with a secret per user."""

import asyncio
import hashlib
import hmac
import ssl
import uuid
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import httpcore2

from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import NotAllowed, UrlPolicy
from cutout.app.notifications.errors import CannotNotify, NotDelivered

EVENT = "batch.finished"
# Timeout of one attempt, including DNS resolution.
SECONDS = 10.0
LONGEST_URL = 2048
# 410: the receiver has removed the endpoint permanently.
GONE = 410
TOLERANCE_SECONDS = 300


def check_webhook_url(url: str, destinations: UrlPolicy) -> str:
    """Return a webhook URL if its form is valid. Its host is resolved and checked only when it is called.

    Raises:
        CannotNotify: the URL is malformed, not http(s), or contains a password.

    """
    if len(url) > LONGEST_URL:
        raise CannotNotify(f"webhookUrl: The address is longer than {LONGEST_URL} characters.")
    try:
        destinations.read(url)
    except NotAllowed as error:
        raise CannotNotify(f"webhookUrl: {error}") from None
    return url


def webhook_secret(service_secret: str, user_id: uuid.UUID) -> str:
    """Return the key that a user's webhooks are signed with, derived from the service's secret and never stored."""
    own = hmac.new(service_secret.encode(), f"webhook\n{user_id}".encode(), hashlib.sha256).digest()
    return f"whsec_{urlsafe_b64encode(own).rstrip(b'=').decode()}"


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a timestamp and a body: `v1=` and a hexadecimal HMAC-SHA256."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(
    secret: str, timestamp: str, body: bytes, signature: str, now: float, tolerance: float = TOLERANCE_SECONDS
) -> bool:
    """Return whether a body was signed with this secret less than `tolerance` seconds ago, as a receiver checks it."""
    right = sign(secret, timestamp, body)
    return (
        hmac.compare_digest(right.encode(), signature.encode())
        and timestamp.isdecimal()
        and abs(now - int(timestamp)) <= tolerance
    )


async def post(
    http_client: SafeHttpClient, url: str, secret: str, delivery_id: uuid.UUID, body: bytes, at: datetime
) -> int:
    """Post a signed body to a URL and return the status code. The response body is not read.

    Raises:
        NotDelivered: the URL is not allowed, the server does not respond in time, or it responds without a 2xx status.

    """
    timestamp = str(int(at.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "X-Cutout-Event": EVENT,
        "X-Cutout-Delivery": str(delivery_id),
        "X-Cutout-Timestamp": timestamp,
        "X-Cutout-Signature": sign(secret, timestamp, body),
    }
    try:
        target = http_client.destinations.read(url)
    except NotAllowed as error:
        raise NotDelivered(str(error), final=True) from None
    answered: tuple[int, str] | None = None
    try:
        async with asyncio.timeout(SECONDS), http_client.call("POST", target, headers, body) as answer:
            answered = answer.status, header(answer, b"retry-after")
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
            raise NotDelivered(why_no_answer(error, SECONDS)) from None
    assert answered is not None
    status, retry_after = answered
    if not 200 <= status < 300:
        raise NotDelivered(
            f"The server answers {status} instead of 2xx.",
            status=status,
            final=status == GONE,
            retry_after=duration(retry_after, at),
        )
    return status


def why_no_answer(error: Exception, seconds: float) -> str:
    """Return why a server did not answer a call that was to take at most this long."""
    if isinstance(error, TimeoutError | httpcore2.TimeoutException):
        return f"The server did not answer within {seconds:g} s."
    if isinstance(
        error.__context__, ssl.SSLError
    ):  # httpcore2 re-raises `from None`, which clears the cause and keeps the context
        return "No secure connection: the server's certificate cannot be verified."
    return "The server does not answer, or closed the connection."


def header(answer: httpcore2.Response, wanted: bytes) -> str:
    """Return a header of an answer, by its name in lower case; empty if there is none."""
    return next(
        (value.decode("latin-1") for name, value in answer.headers if name.lower() == wanted), ""
    ).strip()


def duration(retry_after: str, at: datetime | None = None) -> timedelta:
    """Parse a `Retry-After` header, in seconds or as a date, at this time; zero if it is neither."""
    try:
        if retry_after.isdecimal():
            return timedelta(seconds=int(retry_after))
        until = parsedate_to_datetime(retry_after)
        return (until if until.tzinfo else until.replace(tzinfo=UTC)) - (at or datetime.now(UTC))
    except (ValueError, OverflowError):
        return timedelta(0)
