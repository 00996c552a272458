"""Batch sizes that fit into a device's memory. They are found when a batch does not fit, and tried again later."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Kind = TypeVar("Kind")

# A batch that does not fit costs a few milliseconds and is retried in halves. The memory that it needed may have been
# another process's only for a moment, so larger batches are tried again after a minute, then ever less often.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 60.0, 3600.0


@dataclass
class _Bound:
    """A number that has fitted, or may fit; it is doubled at the time `until`, and then `pause` seconds later."""

    number: int
    until: float
    pause: float = FIRST_PAUSE_SECONDS


class BatchSizes(Generic[Kind]):
    """The largest batch of each kind, and how many batches may be on the device at once.

    Not thread-safe: the owner has to hold a lock.
    """

    def __init__(self, max_batch: int, max_started: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_batch = max_batch
        self._max_started = max_started
        self._clock = clock
        self._batches: dict[Kind, _Bound] = {}
        self._started: _Bound | None = None

    def largest(self, kind: Kind) -> int:
        """Return how many items a batch of this kind may have now."""
        return self._now(self._batches.get(kind), self._max_batch)

    def most_started(self) -> int:
        """Return how many batches may be on the device at once now."""
        return self._now(self._started, self._max_started)

    def too_large(self, kind: Kind, size: int) -> None:
        """Note that a batch of this size did not fit: batches are half as large for now."""
        self._batches[kind] = self._lowered(self._batches.get(kind), size // 2)

    def too_many(self) -> None:
        """Note that a batch did not fit beside another: they are run one at a time for now."""
        self._started = self._lowered(self._started, 1)

    def _now(self, bound: _Bound | None, highest: int) -> int:
        if bound is None:
            return highest
        if bound.number < highest and self._clock() >= bound.until:
            bound.number = 2 * bound.number
            bound.until = self._clock() + bound.pause
        return min(bound.number, highest)

    def _lowered(self, bound: _Bound | None, number: int) -> _Bound:
        """Return the bound after a failure; each failure after the first doubles the pause."""
        pause = FIRST_PAUSE_SECONDS if bound is None else min(2 * bound.pause, LONGEST_PAUSE_SECONDS)
        return _Bound(max(1, number), self._clock() + pause, pause)
