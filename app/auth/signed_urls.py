"""Signed URLs, which work without credentials for a limited time, for use in e-mails and in `<img>` elements."""

import hashlib
import hmac
import time
from datetime import timedelta
from typing import Self


class ServiceSecret(str):
    """The secret with which the service signs URLs and login tokens.

    `prefix` is the path below which a proxy serves the service, such as `/cutout`, or empty. Signed URLs begin with it;
    their signatures do not cover it, so that they hold behind any proxy.
    """

    __slots__ = ("prefix",)
    prefix: str

    def __new__(cls, secret: str, prefix: str = "") -> Self:
        """Return the secret of a service below `prefix`."""
        made = super().__new__(cls, secret)
        made.prefix = prefix
        return made


def sign(
    secret: ServiceSecret, path: str, lasts: timedelta, same_for: timedelta = timedelta(seconds=1)
) -> str:
    """Return the service's `path` below its prefix, with its expiry time and a signature over both as query parameters.

    For periods of `same_for` the URL is the same, and lasts up to that much longer.
    """
    period = int(same_for.total_seconds())
    expires = int(time.time() + lasts.total_seconds() + period - 1) // period * period
    return f"{secret.prefix}{path}?expires={expires}&signature={_signature(secret, path, expires)}"


def is_signed(secret: str, path: str, expires: int, signature: str) -> bool:
    """Return whether the signature is valid for this path and expiry time, and the URL has not expired."""
    right = _signature(secret, path, expires)
    return hmac.compare_digest(right.encode(), signature.encode()) and time.time() < expires


def _signature(secret: str, path: str, expires: int) -> str:
    return hmac.new(secret.encode(), f"{path}\n{expires}".encode(), hashlib.sha256).hexdigest()
