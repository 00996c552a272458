"""Noticing that a clock was set: its course is compared with one that nobody sets."""

import time
from collections.abc import Callable


def _steady() -> float:
    # Goes on while the host is suspended, unlike `time.monotonic`; only Linux has it.
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class ClockWatch:
    """Remembers when a clock last jumped. Not thread-safe: one task looks."""

    def __init__(self, least: float, steady: Callable[[], float] = _steady) -> None:
        """Begin to watch.

        Args:
            least: the smallest jump that counts, in seconds.
            steady: a clock that nobody sets, in seconds.

        """
        self._least = least
        self._steady = steady
        self._before: tuple[float, float, float] | None = None
        self._jumped_at: float | None = None

    def look(self, clock: Callable[[], float]) -> float:
        """Compare the course of `clock`, in seconds, since the last call; return by how much it jumped, mostly 0."""
        began = self._steady()
        at = clock()
        # The calls may have taken a while, and the clock may have been read at any moment of them.
        ended = self._steady()
        before, self._before = self._before, (at, began, ended)
        if before is None:
            return 0.0
        passed, least, most = at - before[0], began - before[2], ended - before[1]
        jump = passed - most if passed > most else min(0.0, passed - least)
        if abs(jump) < self._least:
            return 0.0
        self._jumped_at = ended
        return jump

    def is_steady(self, seconds: float) -> bool:
        """Return whether the last jump was seen at least `seconds` ago, or none was."""
        return self._jumped_at is None or self._steady() - self._jumped_at >= seconds
