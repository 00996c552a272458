"""A circuit breaker: who has failed several times in a row is left alone for a while, then tried with one call."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

# How soon to look again whether the one call has come back.
TRIAL_SECONDS = 1.0


class Breaker:
    """Lets calls through (closed) until `failures` in a row have failed; then none for `seconds` (open); then one, whose
    outcome decides (half-open).

    One thread calls `admit` and what follows it; any may read.
    """

    def __init__(
        self, failures: int = 5, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.reason = ""  # of the last failure
        self._most = failures
        self._seconds = seconds
        self._clock = clock
        self._failures = 0
        self._tries_at: float | None = None  # when one call may be tried; None while closed
        self._trying = False

    @property
    def state(self) -> State:
        tries_at = self._tries_at
        if tries_at is None:
            return "closed"
        return "open" if self._clock() < tries_at else "half-open"

    @property
    def wait(self) -> float:
        """Seconds until a call may be let through; 0: now."""
        tries_at = self._tries_at
        if tries_at is None:
            return 0.0
        left = tries_at - self._clock()
        return left if left > 0 else TRIAL_SECONDS * self._trying

    def admit(self) -> bool:
        """Let a call through, or not; one that was has to end in `succeeded`, `failed` or `broken_off`."""
        if self.wait > 0:
            return False
        self._trying = self._tries_at is not None
        return True

    def succeeded(self) -> None:
        self._failures, self._tries_at, self._trying = 0, None, False

    def failed(self, reason: str, seconds: float = 0.0) -> None:
        """Count a failure; if calls are to stop now, they do for `seconds` at least."""
        self.reason = reason
        self._failures += 1
        if self._failures >= self._most and self.state != "open":
            self._tries_at = self._clock() + max(self._seconds, seconds)
            self._trying = False

    def broken_off(self) -> None:
        """Take back a call of which nothing was learnt."""
        self._trying = False
