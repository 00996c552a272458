"""Deadlines: what has to be called when time is up, unless it is called off before."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class Deadlines:
    """Calls functions at their times, one after another, on a thread of its own. They have to be short.

    Times are those of `time.monotonic`.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        # Entries that are called off stay until they are in the way.
        self._entries: list[tuple[float, int]] = []
        self._rings: dict[int, Callable[[], None]] = {}
        self._numbers = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._watch, name="deadlines", daemon=True)
        self._thread.start()

    def call_at(self, when: float, ring: Callable[[], None]) -> int:
        """Have `ring` called at `when`; the number that is returned calls it off again."""
        with self._changed:
            number = next(self._numbers)
            self._rings[number] = ring
            heapq.heappush(self._entries, (when, number))
            if self._entries[0][1] == number:
                self._changed.notify()
        return number

    def call_off(self, number: int) -> None:
        """Forget what `call_at` returned this number for, if it was not called yet."""
        with self._changed:
            self._rings.pop(number, None)
            if len(self._entries) > 2 * len(self._rings) + 64:
                self._entries = [entry for entry in self._entries if entry[1] in self._rings]
                heapq.heapify(self._entries)

    def close(self) -> None:
        """Stop; nothing more is called."""
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
                ring = self._rings.pop(number, None)
            if ring is not None:
                ring()
