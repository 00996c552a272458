"""How often a user may call: over all hosts where they share a Redis, else on each host for itself.

The window moves with the call: in no minute, wherever it begins, are there more calls than a minute allows. A fixed window
allows twice as many around its edge, and a counted sliding one can only guess when the next call will pass; this one
keeps the times themselves, so `Retry-After` is true. That is at most as many numbers a user as he may make calls. Hosts
that share a Redis need clocks that agree.

Meant for one event loop.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import structlog
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from cutout.app.core.errors import ServiceError

log = structlog.get_logger()

# How long a call waits for Redis, and how long none asks it again after that was in vain.
PATIENCE_SECONDS = 0.4
PAUSE_SECONDS = 5.0
# To Redis; a burst of calls waits for these rather than for as many new ones.
MOST_CONNECTIONS = 8
# Windows that a process keeps at once; beyond it the one not used for longest is forgotten.
MOST_WINDOWS = 10_000
PERIODS = {60: "a minute", 3600: "an hour"}


class Kind(StrEnum):
    """What is counted, each kind by itself."""

    REMOVE = "remove"
    BATCH = "batch"
    BATCH_ATTEMPT = "batch_attempt"
    READS = "reads"
    LOGIN = "login"
    LOGIN_ADDRESS = "login_address"
    LOGIN_ALL = "login_all"


COUNTED = {
    Kind.REMOVE: "removals",
    Kind.BATCH: "batches",
    Kind.BATCH_ATTEMPT: "attempts to hand a batch in",
    Kind.READS: "calls",
    Kind.LOGIN: "wrong passwords",
    Kind.LOGIN_ADDRESS: "logins from one address",
    Kind.LOGIN_ALL: "logins from all addresses",
}


@dataclass(frozen=True)
class Limit:
    """So many calls within any so many seconds."""

    calls: int
    seconds: int


class RateLimited(ServiceError):
    """A call is one too many; after `retry_after` whole seconds one passes."""

    code, status = "RATE_LIMITED", 429
    example = "Too many removals: 30 a minute are allowed. Try again in 7 s."

    def __init__(self, kind: Kind, limit: Limit, wait: float) -> None:
        self.kind = kind
        # A little longer, since two clocks may be read a moment apart.
        seconds = max(1, math.ceil(wait + 0.001))
        period = PERIODS.get(limit.seconds, f"in {limit.seconds} s")
        super().__init__(
            f"Too many {COUNTED[kind]}: {limit.calls} {period} are allowed. Try again in {seconds} s.",
            retry_after=seconds,
        )


class Windows(Protocol):
    """Keeps the times of calls. Seconds to wait are 0 where a call passes."""

    async def take(self, limit: Limit, kind: Kind, who: str) -> float:
        """Count a call, if it passes; the seconds to wait."""

    async def wait(self, limit: Limit, kind: Kind, who: str) -> float:
        """Return the seconds to wait, and count nothing."""


class RateLimits:
    """Counts calls by kind and by whoever makes them; a kind without a limit passes always.

    While Redis does not answer, each host counts for itself, from none: better than to refuse everybody, or nobody.
    """

    def __init__(self, limits: Mapping[Kind, Limit], redis_url: str | None = None) -> None:
        self.refused: Counter[Kind] = Counter()
        self._limits = limits
        self._here = OwnWindows()
        self._shared = SharedWindows(redis_url) if redis_url is not None else None
        self._away = False
        self._ask_again = -math.inf

    async def take(self, kind: Kind, who: str) -> None:
        """Count a call.

        Raises:
            RateLimited: it is one too many, and not counted.

        """
        if (limit := self._limits.get(kind)) is not None:
            self._pass(kind, limit, await self._ask(lambda windows: windows.take(limit, kind, who)))

    async def check(self, kind: Kind, who: str) -> None:
        """Count nothing, and return if a call would pass.

        Raises:
            RateLimited: it would be one too many.

        """
        if (limit := self._limits.get(kind)) is not None:
            self._pass(kind, limit, await self._ask(lambda windows: windows.wait(limit, kind, who)))

    def limit_of(self, kind: Kind) -> Limit | None:
        """Return the limit of a kind; None where there is none."""
        return self._limits.get(kind)

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count what is refused in this block by a limit that is kept elsewhere, such as in the database."""
        try:
            yield
        except RateLimited as error:
            self.refused[error.kind] += 1
            raise

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._shared is not None:
            await self._shared.close()

    def _pass(self, kind: Kind, limit: Limit, wait: float) -> None:
        if wait > 0:
            self.refused[kind] += 1
            raise RateLimited(kind, limit, wait)

    async def _ask(self, question: Callable[[Windows], Awaitable[float]]) -> float:
        if self._shared is None or time.monotonic() < self._ask_again:
            return await question(self._here)
        if self._away:  # this call tries, and no other waits with it
            self._ask_again = time.monotonic() + PAUSE_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await question(self._shared)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            self._ask_again = time.monotonic() + PAUSE_SECONDS
            if not self._away:
                self._away = True
                detail = str(error) or f"no answer in {PATIENCE_SECONDS} s"
                log.warning("Redis does not answer: rate limits hold on each host for itself", detail=detail)
            return await question(self._here)
        if self._away:
            self._away, self._ask_again = False, -math.inf
            log.info("Redis answers again: rate limits hold over all hosts")
        return answer


class OwnWindows:
    """This process's own. The library's walks through every user's window after each call."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[tuple[Kind, str], deque[float]] = {}

    async def take(self, limit: Limit, kind: Kind, who: str) -> float:
        wait = await self.wait(limit, kind, who)
        if wait > 0:
            return wait
        times = self._windows.pop((kind, who), deque())
        times.append(self._clock())
        self._windows[kind, who] = times
        if len(self._windows) > MOST_WINDOWS:
            del self._windows[next(iter(self._windows))]
        return 0.0

    async def wait(self, limit: Limit, kind: Kind, who: str) -> float:
        now = self._clock()
        times = self._windows.get((kind, who), deque())
        while times and times[0] <= now - limit.seconds:
            times.popleft()
        return times[0] + limit.seconds - now if len(times) >= limit.calls else 0.0


class SharedWindows:
    """Those in a Redis or Valkey, which all hosts ask."""

    def __init__(self, url: str) -> None:
        """Prepare to connect to `url`, as in "rediss://…" or "unix://…"; nothing is opened yet."""
        self._connections = BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            # One that died with its server is replaced at once.
            retry=Retry(NoBackoff(), 1),
        )
        storage = RedisStorage(
            "async+redis://",
            implementation="redispy",
            key_prefix="cutout",
            connection_pool=self._connections,  # type: ignore[arg-type]
        )
        self._windows = MovingWindowRateLimiter(storage)

    async def take(self, limit: Limit, kind: Kind, who: str) -> float:
        if await self._windows.hit(_item(limit), kind, who):
            return 0.0
        # By now it may pass, but this one did not.
        return await self.wait(limit, kind, who) or 0.001

    async def wait(self, limit: Limit, kind: Kind, who: str) -> float:
        stats = await self._windows.get_window_stats(_item(limit), kind, who)
        return 0.0 if stats.remaining > 0 else max(0.001, stats.reset_time - time.time())

    async def close(self) -> None:
        await self._connections.aclose()


def _item(limit: Limit) -> RateLimitItem:
    return RateLimitItemPerSecond(limit.calls, limit.seconds, namespace="limit")
