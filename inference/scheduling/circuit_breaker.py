"""A circuit breaker: after several failures in a row, a service is not called for a while, then tried with one call."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half-open"]

# How long to wait before checking again whether the trial call has ended.
TRIAL_SECONDS = 1.0


class CircuitBreaker:
    """Stops calls to a service after several failures in a row.

    The breaker admits calls (closed) until `failures` in a row have failed, then none for `seconds` (open), then one
    (half-open). The outcome of that one call closes or reopens the breaker. Only one thread may call the methods; any
    thread may read the properties.
    """

    def __init__(
        self, failures: int = 5, seconds: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.reason = ""  # the message of the last failure
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
        """Return the seconds until a call may be admitted; 0 means now."""
        tries_at = self._tries_at
        if tries_at is None:
            return 0.0
        left = tries_at - self._clock()
        return left if left > 0 else TRIAL_SECONDS * self._trying

    def admit(self) -> bool:
        """Return whether a call is admitted. Each admitted call must end in `succeeded`, `failed` or `broken_off`."""
        if self.wait > 0:
            return False
        self._trying = self._tries_at is not None
        return True

    def succeeded(self) -> None:
        self._failures, self._tries_at, self._trying = 0, None, False

    def failed(self, reason: str, seconds: float = 0.0) -> None:
        """Count a failure. If it opens the breaker, the breaker stays open for at least `seconds`."""
        self.reason = reason
        self._failures += 1
        if self._failures >= self._most and self.state != "open":
            self._tries_at = self._clock() + max(self._seconds, seconds)
            self._trying = False

    def broken_off(self) -> None:
        """Forget an admitted call that ended without showing whether the service works."""
        self._trying = False
