"""Public keys that a platform publishes for verifying its users' tokens (JWKS).

Anybody can send a token that names an unknown key. Therefore only one thread at a time fetches keys, with a pause
between attempts, and calls with a token of a known key do not wait for it.
"""

import asyncio
import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx2
import jwt
import structlog

log = structlog.get_logger()

# How long fetched keys are used before they are fetched again; how long at most, if fetching fails.
FRESH_SECONDS, KEPT_SECONDS = 300.0, 3600.0
# Pause between two attempts to fetch.
PAUSE_SECONDS = 10.0
# Timeout of one fetch, from the connection to the last byte.
FETCH_SECONDS = 10.0
LARGEST_KEY_SET_BYTES = 1_000_000

Keys = Mapping[str, jwt.PyJWK]


class PublishedKeys:
    """Cache of published keys by key id (`kid`). Thread-safe."""

    def __init__(
        self,
        url: str,
        fetch: Callable[[], Keys] | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = FETCH_SECONDS,
    ) -> None:
        """Prepare to fetch keys from `url` within `seconds`, or by calling `fetch`."""
        self._client = _BoundedClient(url, cache_jwk_set=False, timeout=seconds)
        self._fetch = fetch or self._fetch_from_url
        self._clock = clock
        self._keys: Keys = {}
        self._fetched_at = self._tried_at = -math.inf
        self._failed = False
        self._is_fetching = False
        self._lock = threading.Lock()

    def is_at_hand(self, kid: str | None) -> bool:
        """Return whether `find` returns without waiting."""
        at = self._clock()
        if kid in self._keys and (self._is_fetching or at - self._fetched_at < FRESH_SECONDS):
            return True
        return not self._is_fetching and at - self._tried_at < PAUSE_SECONDS

    def find(self, kid: str | None) -> jwt.PyJWK:
        """Return the key with this id. The call may wait until all keys are fetched.

        Raises:
            jwt.PyJWKClientConnectionError: the key is not known, and keys cannot be fetched.
            jwt.PyJWKClientError: there is no key with this id.

        """
        if not self.is_at_hand(kid):
            self._refresh(kid)
        key = None if kid is None else self._keys.get(kid)
        if key is None or self._clock() - self._fetched_at >= KEPT_SECONDS:
            if self._failed:
                raise jwt.PyJWKClientConnectionError("the published keys cannot be fetched")
            raise jwt.PyJWKClientError(f"no published key has the id {str(kid)[:100]!r}")
        return key

    def _refresh(self, kid: str | None) -> None:
        with self._lock:
            if self.is_at_hand(kid):  # another thread has fetched them in the meantime
                return
            self._is_fetching = True
            try:
                self._keys = self._fetch()
                self._fetched_at, self._failed = self._clock(), False
            except (jwt.PyJWTError, OSError, ValueError) as error:
                self._failed = True
                log.warning("published keys not fetched", setting="CUTOUT_JWKS_URL", detail=str(error))
            finally:
                # The pause starts when the attempt ends, so that a slow server is not asked all the time.
                self._tried_at, self._is_fetching = self._clock(), False

    def _fetch_from_url(self) -> Keys:
        return {key.key_id: key for key in self._client.get_signing_keys() if key.key_id}


class _BoundedClient(jwt.PyJWKClient):
    """Client for a key set with limits on total time and size; PyJWT's own timeout applies to each read."""

    def fetch_data(self) -> Any:
        """Fetch the key set. This blocks; call it from a thread without an event loop.

        Raises:
            PyJWKClientConnectionError: the key set cannot be fetched, or is too large.

        """
        try:
            key_set = json.loads(asyncio.run(self._fetch()))
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, RecursionError) as error:
            raise jwt.PyJWKClientConnectionError(
                f"the key set cannot be fetched ({type(error).__name__})"
            ) from error
        return self._as_jwk_set_payload(key_set)

    async def _fetch(self) -> bytes:
        body = bytearray()
        # Ask for no compression: decompressed content may be a thousand times as large.
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
