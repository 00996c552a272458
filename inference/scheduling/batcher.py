"""The batcher: gathers items from many callers into batches for one device.

One thread starts batches: as soon as the device is idle, so that a single photo does not wait for others. If the device
works asynchronously, as a GPU does, the next batch is started while one runs, as soon as it is full, so a busy device
never waits for its next batch. A second thread waits for the batches that run, in the order of their starts.

If a batch fails, its items are retried one by one, so that a faulty photo fails alone. If a batch does not fit into the
device's memory, it is retried in halves, and larger batches are tried again after a while: see `BatchSizes`.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Generic, TypeVar

from cutout.inference.errors import (
    CutoutError,
    DeadlineExceeded,
    DeviceLost,
    NetworkFailed,
    OutOfMemory,
    Overloaded,
)
from cutout.inference.scheduling.batch_sizes import BatchSizes
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
    after a launch, and 1 if the launch itself does the work. `on_lost` is called once, when the device has failed;
    `on_batch` with the kind and the size of each batch that ran, and `on_no_room` where one did not fit into the memory.
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
        on_batch: Callable[[Kind, int], None] = lambda kind, size: None,
        on_no_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.busy_seconds = 0.0  # how long the device has been busy since the start
        self._launch = launch
        self._deadlines = deadlines
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_waiting = max_waiting
        self._stuck_after = stuck_after
        self._on_lost = on_lost
        self._on_batch = on_batch
        self._on_no_room = on_no_room
        self._sizes: BatchSizes[Kind] = BatchSizes(max_batch, max_started)
        self._changed = threading.Condition()
        self._waiting: FairQueue[_Request[Kind, Item, Answer]] = FairQueue()
        self._open: dict[int, _Request[Kind, Item, Answer]] = {}
        self._numbers = itertools.count()
        self._seconds_each = 0.0
        self._counted = 0.0  # the time up to which busy_seconds is counted
        self._lost: DeviceLost | None = None
        self._closed = False
        self._running = 0  # batches that were started and are not finished
        self._started: SimpleQueue[_Batch[Kind, Item, Answer] | None] = SimpleQueue()  # None ends the thread
        self._threads = (
            threading.Thread(target=self._work, args=(self._start_batches,), name="device", daemon=True),
            threading.Thread(target=self._work, args=(self._finish_batches,), name="results", daemon=True),
        )
        for thread in self._threads:
            thread.start()

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
        """Finish the submitted items and stop. If the device is lost, wait for its threads for a second each only."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        for thread in self._threads:
            thread.join(None if self._lost is None else 1.0)

    def _forget(self, number: int, alarm: int | None) -> None:
        if alarm is not None:
            self._deadlines.call_off(alarm)
        with self._changed:
            request = self._open.pop(number)
            self._waiting.discard(request.caller, request)

    def _work(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            # After any error, fail all open items, because the thread that would finish them has ended.
            self.lose(f"The device's thread has ended with an error ({error!r}). Restart Cutout.")
            raise

    def _start_batches(self) -> None:
        try:
            while self._start_next():
                pass
        finally:
            self._started.put(None)

    def _finish_batches(self) -> None:
        while self._finish_next():
            pass

    def _start_next(self) -> bool:
        """Wait for the next batch and start it. Return False if the batcher is closed and empty, or lost."""
        requests = self._next()
        if requests:
            self._start(requests)
        return bool(requests)

    def _finish_next(self) -> bool:
        """Wait for the next batch that was started, and finish it. Return False if there are no more."""
        batch = self._started.get()
        if batch is None or self._lost is not None:
            return False
        self._finish(batch)
        return True

    def _next(self) -> list[_Request[Kind, Item, Answer]]:
        """Wait for the next batch that may be started; return [] if the batcher is closed and empty, or lost."""
        with self._changed:
            while self._lost is None:
                left = self._until_next()
                if left is not None and left <= 0:
                    self._running += 1
                    return self._take()
                if self._closed and not self._running and not self._waiting:
                    return []
                self._changed.wait(left)
        return []

    def _until_next(self) -> float | None:
        """Return the seconds until the next batch may be started, or None if something else has to happen first."""
        first = next(iter(self._waiting), None)
        if first is None or self._running >= self._sizes.most_started():
            return None
        most = min(first.most, self._sizes.largest(first.kind))
        if sum(request.kind == first.kind for request in self._waiting) >= most:
            return 0.0
        if self._running:
            return None
        return 0.0 if self._closed else first.arrived + self._max_wait - time.monotonic()

    def _take(self) -> list[_Request[Kind, Item, Answer]]:
        def fits(taken: list[_Request[Kind, Item, Answer]], request: _Request[Kind, Item, Answer]) -> bool:
            if not taken:
                return True
            if request.kind != taken[0].kind:
                return False
            largest = self._sizes.largest(request.kind)
            return len(taken) < min(largest, request.most, *(other.most for other in taken))

        return self._waiting.take(fits)

    def _start(self, requests: list[_Request[Kind, Item, Answer]]) -> None:
        """Start a batch, and hand it to the thread that finishes batches, unless it failed immediately."""
        alone = self._running == 1
        began = time.monotonic()
        stuck = f"The device has not answered for {self._stuck_after:g} s. Check it with nvidia-smi and restart Cutout."
        watch = self._deadlines.call_at(began + self._stuck_after, lambda: self.lose(stuck))
        try:
            wait = self._launch(requests[0].kind, [request.item for request in requests])
        except Exception as error:  # noqa: BLE001 - a network or a driver may raise anything
            self._deadlines.call_off(watch)
            if isinstance(error, OutOfMemory) and not alone:
                self._on_no_room()
                with self._changed:
                    self._sizes.too_many()
                self._put_back(requests)
            else:
                self._busy(began)
                self._failed(requests, error)
            self._ended()
        else:
            self._started.put(_Batch(requests, wait, began, watch))

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
            self._ended()
            return
        self._ended()
        self._on_batch(batch.requests[0].kind, len(batch.requests))
        self._seconds_each = 0.8 * self._seconds_each + 0.2 * each if self._seconds_each else each
        for request, result in zip(batch.requests, results, strict=True):
            answer(request.future, result)

    def _ended(self) -> None:
        """Note that a batch is not on the device any more. Its failed requests must have been put back before."""
        with self._changed:
            self._running -= 1
            self._changed.notify()

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
            most = len(requests) // 2
            self._on_no_room()
            with self._changed:
                self._sizes.too_large(requests[0].kind, len(requests))
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
        with self._changed:
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
