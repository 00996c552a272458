"""Webhooks: JSON sent to a URL that a user provides, signed with a secret per user."""

import hashlib
import hmac
import uuid
from base64 import urlsafe_b64encode
from datetime import datetime

from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import NotAllowed, UrlPolicy
from cutout.app.notifications.errors import CannotNotify, NotDelivered
from cutout.app.notifications.sending import send

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
    status, retry_after = await send(http_client, "POST", url, headers, body, SECONDS, at)
    if not 200 <= status < 300:
        raise NotDelivered(
            f"The server answers {status} instead of 2xx.",
            status=status,
            final=status == GONE,
            retry_after=retry_after,
        )
    return status
