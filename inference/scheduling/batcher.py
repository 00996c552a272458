"""The batcher: what many callers want of one device, gathered into batches.

One thread owns the device. It starts a batch as soon as the device has nothing to do: so a photo alone does not wait for
company. Where the device works by itself, as a GPU does, the next batch is started while one runs, once it is full: so a
busy device never waits for its batches.

A batch that fails is tried again one by one, so that what is wrong with one photo fails that photo alone. One that does
not fit into the device's memory is tried again by halves, and no larger one is started after it.
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
from cutout.inference.scheduling.timers import Deadlines

Kind = TypeVar("Kind")
Item = TypeVar("Item")
Answer = TypeVar("Answer")

# Starts a batch, all of one kind, and returns what waits for its answers, one for each item.
Launch = Callable[[Kind, Sequence[Item]], Callable[[], Sequence[Answer]]]

# A batch takes seconds, or on a slow processor minutes. What takes longer than this has stopped.
STUCK_SECONDS = 600.0


@dataclass(eq=False)
class _Request(Generic[Kind, Item, Answer]):
    kind: Kind = field(repr=False)
    item: Item = field(repr=False)
    caller: Hashable
    most: int  # in a batch that it may be part of
    arrived: float
    future: Future[Answer] = field(default_factory=Future, repr=False)


class Batcher(Generic[Kind, Item, Answer]):
    """Runs items through `launch` in batches of one kind. Safe to call from any number of threads.

    At most `max_waiting` items wait; at most `max_batch` are in a batch, which waits up to `max_wait` seconds for
    others to join while the device has nothing else to do. `max_started` batches are on the device: 2 if it works by
    itself once one is launched, 1 if launching does the work. `on_lost` is called once, when the device has failed.
    """

    def __init__(
        self,
        launch: Launch[Kind, Item, Answer],
        deadlines: Deadlines,
        *,
        max_batch: int = 1,
        max_wait: float = 0.0,
        max_started: int = 2,
        max_waiting: int = 64,
        stuck_after: float = STUCK_SECONDS,
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.busy_seconds = 0.0  # the device's own time, since the start
        self._launch = launch
        self._deadlines = deadlines
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._max_started = max_started
        self._max_waiting = max_waiting
        self._stuck_after = stuck_after
        self._on_lost = on_lost
        self._largest: dict[Kind, int] = {}  # batch that memory holds, where less than max_batch
        self._changed = threading.Condition()
        self._waiting: FairQueue[_Request[Kind, Item, Answer]] = FairQueue()
        self._open: dict[int, _Request[Kind, Item, Answer]] = {}
        self._numbers = itertools.count()
        self._seconds_each = 0.0
        self._counted = 0.0  # up to here, busy_seconds are
        self._lost: DeviceLost | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="device", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> DeviceLost | None:
        """Why the device can no longer be used, if so."""
        return self._lost

    @property
    def seconds_each(self) -> float:
        """What one item took of the device's time lately; 0 before the first."""
        return self._seconds_each

    def require_room(self) -> None:
        """Return if the device can be used.

        Raises:
            DeviceLost: it has failed.

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
        """Hand in one item; the future gives its answer, or raises what became of it.

        Cancelling the future before its batch starts takes the item out. `deadline` is a time of `time.monotonic`:
        the future is done by then, with DeadlineExceeded if need be. What was `spent` before counts for nothing here.

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
                    f"{len(self._waiting)} photos are waiting already. Try again in a moment.",
                    retry_after=max(1.0, len(self._waiting) * self._seconds_each),
                )
            number = next(self._numbers)
            self._open[number] = request
            self._waiting.push(caller, request)
            self._changed.notify()
        ring = None
        if deadline < math.inf:
            late = DeadlineExceeded("The photo was not done in its time. Try again in a moment.")
            ring = self._deadlines.call_at(deadline, lambda: fail(request.future, late))
        # The future does not hold the request, which holds it: pixels would stay until the next garbage collection.
        request.future.add_done_callback(lambda _: self._forget(number, ring))
        return request.future

    def close(self) -> None:
        """Finish what was handed in, and stop. A device that has stopped answering is not waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(None if self._lost is None else 1.0)

    def _forget(self, number: int, ring: int | None) -> None:
        if ring is not None:
            self._deadlines.call_off(ring)
        with self._changed:
            request = self._open.pop(number)
            self._waiting.discard(request.caller, request)

    def _work(self) -> None:
        try:
            self._run_batches()
        except BaseException as error:
            # Whatever it is, nobody is left waiting for a thread that is gone.
            self.lose(f"The device's thread ended by an error of its own ({error!r}). Restart Cutout.")
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
        """Take the next batch; wait for one while nothing runs. [] if what runs comes first, None at the end."""
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
        """Start a batch: one in a list, or none if it failed right away."""
        began = time.monotonic()
        stuck = f"The device has not answered for {self._stuck_after:g} s. Check it with nvidia-smi and restart Cutout."
        watch = self._deadlines.call_at(began + self._stuck_after, lambda: self.lose(stuck))
        try:
            wait = self._launch(requests[0].kind, [request.item for request in requests])
        except Exception as error:  # noqa: BLE001 - whatever a network or a driver may raise
            self._deadlines.call_off(watch)
            if isinstance(error, OutOfMemory) and not alone:
                self._max_started = 1  # memory holds one batch, but not a second one beside it
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
        except Exception as error:  # noqa: BLE001 - as above
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
        """Have the requests of a failed batch tried again in smaller ones, or fail what was alone."""
        if isinstance(error, DeviceLost):
            self.lose(str(error))
            return
        if len(requests) == 1:
            if not isinstance(error, CutoutError):
                failed = NetworkFailed(
                    "The network could not be run on this photo. Try again, or with another."
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
        """Give the device up, and fail all that waits for it."""
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
        """Count the time since a batch began, as far as it is not counted yet."""
        now = time.monotonic()
        seconds = now - max(began, self._counted)
        self._counted = now
        self.busy_seconds += seconds
        return seconds


@dataclass
class _Batch(Generic[Kind, Item, Answer]):
    """A batch on the device; `watch` is the number of its deadline."""

    requests: list[_Request[Kind, Item, Answer]] = field(repr=False)
    wait: Callable[[], Sequence[Answer]] = field(repr=False)
    began: float
    watch: int
