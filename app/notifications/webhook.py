"""Webhooks: JSON to a web address that a user names, signed with a secret of his own."""

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
# For one attempt, looking the host up included.
SECONDS = 10.0
LONGEST_URL = 2048
# The receiver has taken it away for good.
GONE = 410
TOLERANCE_SECONDS = 300


def check_webhook_url(url: str, destinations: UrlPolicy) -> str:
    """Return an address to call later, if it can be one; where it leads to is looked up then.

    Raises:
        CannotNotify: it is malformed, not of the web, or has a password in it.

    """
    if len(url) > LONGEST_URL:
        raise CannotNotify(f"webhookUrl: The address is longer than {LONGEST_URL} characters.")
    try:
        destinations.read(url)
    except NotAllowed as error:
        raise CannotNotify(f"webhookUrl: {error}") from None
    return url


def webhook_secret(service_secret: str, user_id: uuid.UUID) -> str:
    """Return what a user's webhooks are signed with: made of the service's secret, and kept nowhere."""
    own = hmac.new(service_secret.encode(), f"webhook\n{user_id}".encode(), hashlib.sha256).digest()
    return f"whsec_{urlsafe_b64encode(own).rstrip(b'=').decode()}"


def sign(secret: str, timestamp: str, body: bytes) -> str:
    """Return the signature of a body sent at a time."""
    return "v1=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def verify(
    secret: str, timestamp: str, body: bytes, signature: str, now: float, tolerance: float = TOLERANCE_SECONDS
) -> bool:
    """Tell, as a receiver does, whether a body was signed with this secret, and not long ago."""
    right = sign(secret, timestamp, body)
    return (
        hmac.compare_digest(right.encode(), signature.encode())
        and timestamp.isdecimal()
        and abs(now - int(timestamp)) <= tolerance
    )


async def post(
    http_client: SafeHttpClient, url: str, secret: str, delivery_id: uuid.UUID, body: bytes, at: datetime
) -> int:
    """Send a body to a web address; return the status that it was taken with. The rest of the answer is not read.

    Raises:
        NotDelivered: the address may not be called, does not answer in time, or answers no 2xx.

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
        # What goes wrong after the answer's head is nothing to us.
        if answered is None:
            raise NotDelivered(_reason(error)) from None
    assert answered is not None
    status, retry_after = answered
    if not 200 <= status < 300:
        raise NotDelivered(
            f"The server answers {status} instead of 2xx.",
            status=status,
            final=status == GONE,
            retry_after=_duration(retry_after, at),
        )
    return status


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError | httpcore2.TimeoutException):
        return f"The server did not answer within {SECONDS:g} s."
    if isinstance(error.__context__, ssl.SSLError):  # httpcore2 takes the cause away
        return "No secure connection: the server's certificate cannot be verified."
    return "The server does not answer, or broke off."


def _header(answer: httpcore2.Response, wanted: bytes) -> str:
    return next(
        (value.decode("latin-1") for name, value in answer.headers if name.lower() == wanted), ""
    ).strip()


def _duration(retry_after: str, at: datetime) -> timedelta:
    """Read a `Retry-After`: seconds or a date; nothing where it is neither."""
    try:
        if retry_after.isdecimal():
            return timedelta(seconds=int(retry_after))
        until = parsedate_to_datetime(retry_after)
        return (until if until.tzinfo else until.replace(tzinfo=UTC)) - at
    except (ValueError, OverflowError):
        return timedelta(0)
