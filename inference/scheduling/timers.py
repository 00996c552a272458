"""Timers: functions to be called at a given time, unless they are cancelled first."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Timers:
    """Calls functions at given times of `time.monotonic`, one after another, on a thread of its own.

    The functions must be short, because each delays the next.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Cancelled entries stay in the heap until there are too many of them.
        self._entries: list[tuple[float, int]] = []
        self._rings: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
        self._thread.start()

    def call_at(self, when: float, notify_workers: Callable[[], None]) -> int:
        """Schedule `notify_workers` to be called at `when`; return the number with which `call_off` cancels it."""
        with self._changed:
            number = next(self._numbers)
            self._rings[number] = notify_workers
            heapq.heappush(self._entries, (when, number))
            if self._entries[0][1] == number:
                self._changed.notify()
        return number

    def call_off(self, number: int) -> None:
        """Cancel the call for which `call_at` returned this number, unless it was already made."""
        with self._changed:
            self._rings.pop(number, None)
            if len(self._entries) > 2 * len(self._rings) + 64:
                self._entries = [entry for entry in self._entries if entry[1] in self._rings]
                heapq.heapify(self._entries)

    def close(self) -> None:
        """Stop the thread; no more functions are called."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            with self._changed:
                if self._closed:
                    return
                if not self._entries:
                    self._changed.wait()
                    continue
                when, number = self._entries[0]
                if number in self._rings and when > time.monotonic():
                    self._changed.wait(when - time.monotonic())
                    continue
                heapq.heappop(self._entries)
                notify_workers = self._rings.pop(number, None)
            if notify_workers is not None:
                notify_workers()
