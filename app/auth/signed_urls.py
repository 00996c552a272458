"""Signed URLs, which work without credentials for a limited time, for use in e-mails and in `<img>` elements."""

import hashlib
import hmac
import time
from datetime import timedelta


class ServiceSecret(str):
    """The secret with which the service signs URLs and login tokens."""

    __slots__ = ()


def sign(secret: str, path: str, lasts: timedelta, same_for: timedelta = timedelta(seconds=1)) -> str:
    """Return `path` with its expiry time and a signature over both as query parameters.

    For periods of `same_for` the URL is the same, and lasts up to that much longer.
    """
    period = int(same_for.total_seconds())
    expires = int(time.time() + lasts.total_seconds() + period - 1) // period * period
    return f"{path}?expires={expires}&signature={_signature(secret, path, expires)}"


def is_signed(secret: str, path: str, expires: int, signature: str) -> bool:
    """Return whether the signature is valid for this path and expiry time, and the URL has not expired."""
    right = _signature(secret, path, expires)
    return hmac.compare_digest(right.encode(), signature.encode()) and time.time() < expires


def _signature(secret: str, path: str, expires: int) -> str:
    return hmac.new(secret.encode(), f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
