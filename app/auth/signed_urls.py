"""Addresses that work without a key for a while: in a mail, in an `<img>`."""

import hashlib
import hmac
import time
from datetime import timedelta


class ServiceSecret(str):
    """The secret by which the service signs addresses and logins."""

    __slots__ = ()


def sign(secret: str, path: str, lasts: timedelta) -> str:
    """Return `path` with the time it works until and our signature over both."""
    expires = int(time.time() + lasts.total_seconds())
    return f"{path}?expires={expires}&signature={_signature(secret, path, expires)}"


def is_signed(secret: str, path: str, expires: int, signature: str) -> bool:
    """Tell whether we signed this very path and time, and the time has not come."""
    right = _signature(secret, path, expires)
    return hmac.compare_digest(right.encode(), signature.encode()) and time.time() < expires


def _signature(secret: str, path: str, expires: int) -> str:
    return hmac.new(secret.encode(), f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
