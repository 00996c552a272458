"""The batcher: gathers items from many callers into batches for one device.

One thread owns the device. It starts a batch as soon as the device is idle, so a single photo does not wait for others.
If the device works asynchronously, as a GPU does, the next batch is started while one runs, as soon as it is full, so a
busy device never waits for its next batch.

If a batch fails, its items are retried one by one, so that a faulty photo fails alone. If a batch does not fit into the
device's memory, it is retried in halves, and no larger batch is started afterwards.
"""

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from cutout.inference.errors import (
    CutoutError,
    DeadlineExceeded,
    DeviceLost,
    NetworkFailed,
    OutOfMemory,
    Overloaded,
)
from cutout.inference.scheduling.fair_queue import FairQueue
from cutout.inference.scheduling.futures import answer, fail
from cutout.inference.scheduling.timers import Timers

Kind = TypeVar("Kind")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Starts a batch of items of one kind, and returns a function that waits for the results, one for each item.
Launch = Callable[[Kind, Sequence[Item]], Callable[[], Sequence[Answer]]]

# A batch takes seconds, or minutes on a slow CPU. A device that takes longer than this is considered stuck.
STUCK_SECONDS = 600.0


@dataclass(eq=False)
class _Request(Generic[Kind, Item, Answer]):
    kind: Kind = field(repr=False)
    item: Item = field(repr=False)
    caller: Hashable
    most: int  # the largest batch that this item may be part of
    arrived: float
    future: Future[Answer] = field(default_factory=Future, repr=False)


class Batcher(Generic[Kind, Item, Answer]):
    """Runs items through `launch` in batches of one kind. Safe to call from any number of threads.

    At most `max_waiting` items wait. A batch has at most `max_batch` items, and waits up to `max_wait` seconds for more
    while the device is idle. At most `max_started` batches are on the device: use 2 if the device works asynchronously
    after a launch, and 1 if the launch itself does the work. `on_lost` is called once, when the device has failed.
    """

    def __init__(
        self,
        launch: Launch[Kind, Item, Answer],
        deadlines: Timers,
        *,
        max_batch: int = 1,
        max_wait: float = 0.0,
        max_started: int = 2,
        max_waiting: int = 64,
        stuck_after: float = STUCK_SECONDS,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.busy_seconds = 0.0  # how long the device has been busy since the start
        self._launch = launch
        self._deadlines = deadlines
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_started = max_started
        self._max_waiting = max_waiting
        self._stuck_after = stuck_after
        self._on_lost = on_lost
        self._largest: dict[Kind, int] = {}  # largest batch that fits into memory, if less than max_batch
        self._changed = threading.Condition()
        self._waiting: FairQueue[_Request[Kind, Item, Answer]] = FairQueue()
        self._open: dict[int, _Request[Kind, Item, Answer]] = {}
        self._numbers = itertools.count()
        self._seconds_each = 0.0
        self._counted = 0.0  # the time up to which busy_seconds is counted
        self._lost: DeviceLost | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> DeviceLost | None:
        """Return the error of the device if it has failed, or else None."""
        return self._lost

    @property
    def seconds_each(self) -> float:
        """Return the moving average of the device's seconds per item; 0 before the first."""
        return self._seconds_each

    def require_capacity(self) -> None:
        """Check that the device can be used.

        Raises:
            DeviceLost: the device has failed.

        """
        if self._lost is not None:
            raise DeviceLost(str(self._lost))

    def submit(
        self,
        kind: Kind,
        item: Item,
        *,
        caller: Hashable = None,
        deadline: float = math.inf,
        spent: float = 0.0,
    ) -> Future[Answer]:
        """Submit one item; the future gives its result, or raises its error.

        Cancelling the future before its batch starts removes the item. `deadline` is a time of `time.monotonic`: if
        the future is not done by then, it fails with DeadlineExceeded. `spent` is ignored here.

        Raises:
            Overloaded: `max_waiting` items are waiting.
            DeviceLost: the device has failed.

        """
        now = time.monotonic()
        request = _Request[Kind, Item, Answer](kind, item, caller, self._max_batch, now)
        with self._changed:
            if self._lost is not None:
                raise DeviceLost(str(self._lost))
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(
                    f"{len(self._waiting)} photos are already waiting. Try again in a moment.",
                    retry_after=max(1.0, len(self._waiting) * self._seconds_each),
                )
            number = next(self._numbers)
            self._open[number] = request
            self._waiting.push(caller, request)
            self._changed.notify()
        alarm = None
        if deadline < math.inf:
            late = DeadlineExceeded("The photo was not processed in time. Try again in a moment.")
            alarm = self._deadlines.call_at(deadline, lambda: fail(request.future, late))
        # The callback holds only the number: a cycle of future and request would keep the pixels in memory until the
        # next garbage collection.
        request.future.add_done_callback(lambda _: self._forget(number, alarm))
        return request.future

    def close(self) -> None:
        """Finish the submitted items and stop. If the device is lost, wait for its thread for one second only."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(None if self._lost is None else 1.0)

    def _forget(self, number: int, alarm: int | None) -> None:
        if alarm is not None:
            self._deadlines.call_off(alarm)
        with self._changed:
            request = self._open.pop(number)
            self._waiting.discard(request.caller, request)

    def _work(self) -> None:
        try:
            self._run_batches()
        except BaseException as error:
            # After any error, fail all open items, because the thread that would finish them has ended.
            self.lose(f"The device's thread has ended with an error ({error!r}). Restart Cutout.")
            raise

    def _run_batches(self) -> None:
        running: deque[_Batch[Kind, Item, Answer]] = deque()
        while True:
            requests = self._next(len(running))
            if requests is None or self._lost is not None:
                return
            if requests:
                running.extend(self._start(requests, alone=not running))
            else:
                self._finish(running.popleft())

    def _next(self, running: int) -> list[_Request[Kind, Item, Answer]] | None:
        """Return the next batch; wait for one while nothing runs.

        Returns [] if a running batch has to be finished first, and None if the batcher is closed and empty.
        """
        with self._changed:
            while True:
                first = next(iter(self._waiting), None)
                if first is None and running:
                    return []
                if first is None and self._closed:
                    return None
                if first is None:
                    self._changed.wait()
                    continue
                most = min(first.most, self._largest.get(first.kind, self._max_batch))
                if sum(request.kind == first.kind for request in self._waiting) >= most:
                    return self._take() if running < self._max_started else []
                if running:
                    return []
                left = first.arrived + self._max_wait - time.monotonic()
                if left <= 0 or self._closed:
                    return self._take()
                self._changed.wait(left)

    def _take(self) -> list[_Request[Kind, Item, Answer]]:
        def fits(taken: list[_Request[Kind, Item, Answer]], request: _Request[Kind, Item, Answer]) -> bool:
            if not taken:
                return True
            if request.kind != taken[0].kind:
                return False
            largest = self._largest.get(request.kind, self._max_batch)
            return len(taken) < min(largest, request.most, *(other.most for other in taken))

        return self._waiting.take(fits)

    def _start(
        self, requests: list[_Request[Kind, Item, Answer]], alone: bool
    ) -> list["_Batch[Kind, Item, Answer]"]:
        """Start a batch; return it in a list, or [] if it failed immediately."""
        began = time.monotonic()
        stuck = f"The device has not answered for {self._stuck_after:g} s. Check it with nvidia-smi and restart Cutout."
        watch = self._deadlines.call_at(began + self._stuck_after, lambda: self.lose(stuck))
        try:
            wait = self._launch(requests[0].kind, [request.item for request in requests])
        except Exception as error:  # noqa: BLE001 - a network or a driver may raise anything
            self._deadlines.call_off(watch)
            if isinstance(error, OutOfMemory) and not alone:
                self._max_started = 1  # two batches at once do not fit into memory
                self._put_back(requests)
            else:
                self._busy(began)
                self._failed(requests, error)
            return []
        return [_Batch(requests, wait, began, watch)]

    def _finish(self, batch: "_Batch[Kind, Item, Answer]") -> None:
        failure = None
        try:
            results = batch.wait()
        except Exception as error:  # noqa: BLE001 - a network or a driver may raise anything
            failure = error
        self._deadlines.call_off(batch.watch)
        each = self._busy(batch.began) / len(batch.requests)
        if failure is not None:
            self._failed(batch.requests, failure)
            return
        self._seconds_each = 0.8 * self._seconds_each + 0.2 * each if self._seconds_each else each
        for request, result in zip(batch.requests, results, strict=True):
            answer(request.future, result)

    def _failed(self, requests: list[_Request[Kind, Item, Answer]], error: Exception) -> None:
        """Put the requests of a failed batch back to be retried in smaller batches, or fail a single request."""
        if isinstance(error, DeviceLost):
            self.lose(str(error))
            return
        if len(requests) == 1:
            if not isinstance(error, CutoutError):
                failed = NetworkFailed(
                    "The network could not be run on this photo. Try again, or try another photo."
                )
                failed.__cause__ = error
                error = failed
            fail(requests[0].future, error)
            return
        most = 1
        if isinstance(error, OutOfMemory):
            most = self._largest[requests[0].kind] = len(requests) // 2
        for request in requests:
            request.most = most
        self._put_back(requests)

    def _put_back(self, requests: list[_Request[Kind, Item, Answer]]) -> None:
        with self._changed:
            for request in reversed(requests):
                if not request.future.done():
                    self._waiting.put_back(request.caller, request)

    def lose(self, message: str) -> None:
        """Mark the device as lost, and fail all open items."""
        with self._changed:
            if self._lost is not None:
                return
            self._lost = DeviceLost(message)
            left = list(self._open.values())
            self._changed.notify()
        for request in left:
            fail(request.future, DeviceLost(message))
        self._on_lost()

    def _busy(self, began: float) -> float:
        """Add the time since a batch began to `busy_seconds`, counting no time twice; return the seconds added."""
        now = time.monotonic()
        seconds = now - max(began, self._counted)
        self._counted = now
        self.busy_seconds += seconds
        return seconds


@dataclass
class _Batch(Generic[Kind, Item, Answer]):
    """A batch on the device; `watch` is the number of the timer that detects a stuck device."""

    requests: list[_Request[Kind, Item, Answer]] = field(repr=False)
    wait: Callable[[], Sequence[Answer]] = field(repr=False)
    began: float
    watch: int
