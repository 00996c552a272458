"""The keys that a platform publishes (JWKS), fetched within limits of time and size."""

import asyncio
import json
import math
import ssl
import time
from typing import Any

import httpx2
import jwt

# For one fetch, from the connection to the last byte.
FETCH_SECONDS = 10.0
LARGEST_KEY_SET_BYTES = 1_000_000
# Callers wait for each other's fetch; after one in vain, those that come next are refused at once for a while.
PAUSE_SECONDS = 5.0


class PublishedKeys(jwt.PyJWKClient):
    """A client for a key set, whose time and size are bounded in all; PyJWT's own timeout is for each read."""

    def __init__(self, url: str, seconds: float = FETCH_SECONDS) -> None:
        super().__init__(url, timeout=seconds)
        self._not_before = -math.inf

    def fetch_data(self) -> Any:
        """Fetch the key set and cache it. This waits, in a thread without an event loop.

        Raises:
            PyJWKClientConnectionError: it cannot be had, is too large, or could not be had a moment ago.

        """
        if time.monotonic() < self._not_before:
            raise jwt.PyJWKClientConnectionError("the key set could not be fetched a moment ago")
        try:
            key_set = json.loads(asyncio.run(self._fetch()))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RecursionError) as error:
            self._not_before = time.monotonic() + PAUSE_SECONDS
            raise jwt.PyJWKClientConnectionError(
                f"the key set cannot be fetched ({type(error).__name__})"
            ) from error
        key_set = self._as_jwk_set_payload(key_set)
        if self.jwk_set_cache is not None:
            self.jwk_set_cache.put(key_set)
        self._last_successful_fetch = time.monotonic()
        return key_set

    async def _fetch(self) -> bytes:
        body = bytearray()
        # Packed content is not asked for: unpacked it may be a thousand times as large.
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        async with (
            asyncio.timeout(self.timeout),
            httpx2.AsyncClient(verify=ssl.create_default_context(), timeout=self.timeout) as client,
            client.stream("GET", self.uri, headers=headers) as answer,
        ):
            answer.raise_for_status()
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > LARGEST_KEY_SET_BYTES:
                    raise ValueError(f"the key set has more than {LARGEST_KEY_SET_BYTES} bytes")
        return bytes(body)
