"""Rate limits per caller: shared by all hosts through Redis if one is set, else kept on each host separately.

The limits use a moving window: no interval of the window's length contains more calls than allowed. A fixed window
allows twice as many around its edge, and a sliding counter can only estimate when the next call will pass. This one
stores the time of each call, so `Retry-After` is exact; the cost is one number per allowed call and caller. Hosts that
share a Redis need synchronised clocks.

For use in one event loop.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, TypeVar

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

Told = TypeVar("Told")

# Timeout of a call to Redis, and how long Redis is not tried again after a failure.
PATIENCE_SECONDS = 0.4
PAUSE_SECONDS = 5.0
# Connections to Redis; calls in a burst wait for one of these instead of opening new ones.
MOST_CONNECTIONS = 8
# Maximum number of windows a process keeps; beyond it, the least recently used is dropped.
MOST_WINDOWS = 10_000
PERIODS = {60: "a minute", 3600: "an hour"}


class Kind(StrEnum):
    """Kinds of calls; each is counted separately."""

    REMOVE = "remove"
    REFINE = "refine"
    BATCH = "batch"
    BATCH_ATTEMPT = "batch_attempt"
    READS = "reads"
    LOGIN = "login"
    LOGIN_ADDRESS = "login_address"
    LOGIN_ALL = "login_all"


COUNTED = {
    Kind.REMOVE: "removals",
    Kind.REFINE: "refinements",
    Kind.BATCH: "batches",
    Kind.BATCH_ATTEMPT: "attempts to submit a batch",
    Kind.READS: "calls",
    Kind.LOGIN: "wrong passwords",
    Kind.LOGIN_ADDRESS: "logins from one address",
    Kind.LOGIN_ALL: "logins from all addresses",
}


@dataclass(frozen=True)
class Limit:
    """At most `calls` calls within any `seconds` seconds."""

    calls: int
    seconds: int


class RateLimited(ServiceError):
    """A call exceeds its limit; one will pass after `retry_after` whole seconds."""

    code, status = "RATE_LIMITED", 429
    example = "Too many removals: 30 a minute are allowed. Try again in 7 s."

    def __init__(self, kind: Kind, limit: Limit, wait: float) -> None:
        self.kind, self.limit = kind, limit
        # Add 1 ms, because the clocks are read at slightly different times.
        seconds = max(1, math.ceil(wait + 0.001))
        period = PERIODS.get(limit.seconds, f"in {limit.seconds} s")
        super().__init__(
            f"Too many {COUNTED[kind]}: {limit.calls} {period} are allowed. Try again in {seconds} s.",
            retry_after=seconds,
        )


class WindowState(NamedTuple):
    """How many more calls pass now, and the seconds until one more does; 0 if none was counted."""

    left: int
    seconds: float


class Windows(Protocol):
    """Stores the times of calls. The returned wait is 0 if a call passes."""

    async def take(self, limit: Limit, kind: Kind, who: str) -> float:
        """Count a call if it passes; return the seconds to wait."""

    async def wait(self, limit: Limit, kind: Kind, who: str) -> float:
        """Return the seconds to wait, without counting a call."""

    async def state(self, limit: Limit, kind: Kind, who: str) -> WindowState:
        """Return how much of the limit is left, without counting a call."""


class RateLimits:
    """Counts calls by kind and caller; a kind without a limit always passes.

    While Redis does not answer, each host counts separately, starting from zero. That is better than refusing all calls
    or none.
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
            RateLimited: it exceeds the limit, and is not counted.

        """
        if (limit := self._limits.get(kind)) is not None:
            self._pass(kind, limit, await self._ask(lambda windows: windows.take(limit, kind, who)))

    async def check(self, kind: Kind, who: str) -> None:
        """Check whether a call would pass, without counting it.

        Raises:
            RateLimited: it would exceed the limit.

        """
        if (limit := self._limits.get(kind)) is not None:
            self._pass(kind, limit, await self._ask(lambda windows: windows.wait(limit, kind, who)))

    async def state(self, kind: Kind, who: str) -> WindowState | None:
        """Return how much of a limit is left for a caller, without counting a call; None if the kind has no limit."""
        if (limit := self._limits.get(kind)) is None:
            return None
        return await self._ask(lambda windows: windows.state(limit, kind, who))

    def limit_of(self, kind: Kind) -> Limit | None:
        """Return the limit of a kind; None if it has none."""
        return self._limits.get(kind)

    @contextmanager
    def counting_refusals(self) -> Iterator[None]:
        """Count refusals in this block by a limit that is stored in another place, such as the database."""
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

    async def _ask(self, question: Callable[[Windows], Awaitable[Told]]) -> Told:
        if self._shared is None or time.monotonic() < self._ask_again:
            return await question(self._here)
        if self._away:  # Only this call tries Redis; others do not wait with it.
            self._ask_again = time.monotonic() + PAUSE_SECONDS
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await question(self._shared)
        except (RedisError, OSError) as error:  # a TimeoutError is an OSError
            self._ask_again = time.monotonic() + PAUSE_SECONDS
            if not self._away:
                self._away = True
                detail = str(error) or f"no answer in {PATIENCE_SECONDS} s"
                log.warning("Redis does not answer: rate limits apply on each host separately", detail=detail)
            return await question(self._here)
        if self._away:
            self._away, self._ask_again = False, -math.inf
            log.info("Redis answers again: rate limits apply across all hosts")
        return answer


class OwnWindows:
    """Windows in this process's memory. `MemoryStorage` of `limits` scans the windows of all users after each call."""

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
        state = await self.state(limit, kind, who)
        return 0.0 if state.left > 0 else state.seconds

    async def state(self, limit: Limit, kind: Kind, who: str) -> WindowState:
        now = self._clock()
        times = self._windows.get((kind, who), deque())
        while times and times[0] <= now - limit.seconds:
            times.popleft()
        return WindowState(max(0, limit.calls - len(times)), times[0] + limit.seconds - now if times else 0.0)


class SharedWindows:
    """Windows in a Redis or Valkey that all hosts share."""

    def __init__(self, url: str) -> None:
        """Prepare to connect to `url`, such as "rediss://…" or "unix://…"; nothing is opened yet."""
        self._connections = BlockingConnectionPool.from_url(
            url,
            max_connections=MOST_CONNECTIONS,
            # Retry once at once, to replace a connection that died with its server.
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
        # A new call might pass by now, but this one was refused.
        return await self.wait(limit, kind, who) or 0.001

    async def wait(self, limit: Limit, kind: Kind, who: str) -> float:
        stats = await self._windows.get_window_stats(_item(limit), kind, who)
        return 0.0 if stats.remaining > 0 else max(0.001, _left(limit, stats.reset_time))

    async def state(self, limit: Limit, kind: Kind, who: str) -> WindowState:
        stats = await self._windows.get_window_stats(_item(limit), kind, who)
        left = max(0, stats.remaining)
        return WindowState(left, max(0.0, _left(limit, stats.reset_time)) if left < limit.calls else 0.0)

    async def close(self) -> None:
        await self._connections.aclose()


def _left(limit: Limit, until: float) -> float:
    """Return the seconds until a time, at most a window: more is left only where the clock was set back."""
    return min(until - time.time(), float(limit.seconds))


def _item(limit: Limit) -> RateLimitItem:
    return RateLimitItemPerSecond(limit.calls, limit.seconds, namespace="limit")
