"""Figures of an engine since it was opened, for monitoring: times by stage, batch sizes, faults and waits."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

# Upper bounds of the classes, in seconds and in photos.
STAGE_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
BATCH_SIZES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# Outcomes of a call of a remote service: `ok`, `timeout`, and the kinds of `huggingface.faults.Trouble`.
REMOTE_OUTCOMES = ("ok", "loading", "rate_limited", "refused", "too_large", "failed", "timeout")
# Beside the stages of `stage_timer.STAGES`: the time until a thread of the engine takes the photo.
TURN = "turn"


class Spread(NamedTuple):
    """How values are spread: the number of those up to each bound, of all, and their sum. `counts` add up."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    number: int
    total: float


class DeviceMemory(NamedTuple):
    """The memory of a GPU in bytes: all of it, what is free, and what torch has for tensors and keeps in reserve."""

    total: int
    free: int
    allocated: int
    reserved: int


class _Histogram:
    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def spread(self) -> Spread:
        counts, number = [], 0
        for count in self._counts:
            number += count
            counts.append(number)
        return Spread(self._bounds, tuple(counts[:-1]), number, self._total)


class Figures:
    """What an engine counts. Thread-safe. Names are those of tiers, stages and checkpoints, so they are few."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stages: dict[tuple[str, str], _Histogram] = {}
        self._batches: dict[str, _Histogram] = {}
        self._loads: dict[str, float] = {}
        self._no_room: Counter[str] = Counter({"batch": 0, "photo": 0})
        self._remote_calls = dict.fromkeys(REMOTE_OUTCOMES, 0)
        self._remote_waits: dict[str, float] = {}

    def passed(self, tier: str, seconds: Mapping[str, float]) -> None:
        """Count a finished photo by the seconds of each of its stages."""
        with self._lock:
            for stage, value in seconds.items():
                key = tier, stage
                if key not in self._stages:
                    self._stages[key] = _Histogram(STAGE_SECONDS)
                self._stages[key].add(value)

    def batch_ran(self, checkpoint: str, size: int) -> None:
        """Count a run of a network on so many photos."""
        with self._lock:
            if checkpoint not in self._batches:
                self._batches[checkpoint] = _Histogram(BATCH_SIZES)
            self._batches[checkpoint].add(size)

    def loaded(self, checkpoint: str, seconds: float) -> None:
        """Add time that loading a checkpoint or warming it up has taken."""
        with self._lock:
            self._loads[checkpoint] = self._loads.get(checkpoint, 0.0) + seconds

    def found_no_room(self, what: str) -> None:
        """Count a `batch` or a `photo` that did not fit into the memory and is tried again."""
        with self._lock:
            self._no_room[what] += 1

    def called(self, outcome: str) -> None:
        """Count a call of the remote service: `ok`, or a kind of trouble."""
        with self._lock:
            self._remote_calls[outcome] += 1

    def waited(self, reason: str, seconds: float) -> None:
        """Add a pause before the next call of the remote service, by the kind of trouble that asked for it."""
        with self._lock:
            self._remote_waits[reason] = self._remote_waits.get(reason, 0.0) + seconds

    def stages(self) -> dict[tuple[str, str], Spread]:
        """Return the seconds of finished photos, by tier and stage."""
        with self._lock:
            return {key: one.spread() for key, one in self._stages.items()}

    def batches(self) -> dict[str, Spread]:
        """Return the sizes of batches that ran, by checkpoint."""
        with self._lock:
            return {key: one.spread() for key, one in self._batches.items()}

    def loads(self) -> dict[str, float]:
        """Return the seconds that loading and warming up took, by checkpoint."""
        with self._lock:
            return dict(self._loads)

    def no_room(self) -> dict[str, int]:
        """Return how often a batch or a photo did not fit into the memory."""
        with self._lock:
            return dict(self._no_room)

    def remote_calls(self) -> dict[str, int]:
        """Return the calls of the remote service, by outcome."""
        with self._lock:
            return dict(self._remote_calls)

    def remote_waits(self) -> dict[str, float]:
        """Return the seconds of pauses between calls of the remote service, by reason."""
        with self._lock:
            return dict(self._remote_waits)
