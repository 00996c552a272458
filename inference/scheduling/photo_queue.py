"""The queue of an engine: callers take turns, and what takes long leaves threads to what does not."""

import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from cutout.inference.scheduling.fair_queue import FairQueue

Item = TypeVar("Item")


class PhotoQueue(Generic[Item]):
    """A fair queue of which at most so many long items are in work at once. Thread-safe.

    An animation is in work for minutes on a CPU. Without a limit, as many of them as there are threads would keep all other
    photos waiting until their deadline.
    """

    def __init__(self, most_long: int, is_long: Callable[[Item], bool]) -> None:
        """With at most `most_long` items in work of which `is_long` is true."""
        self._items: FairQueue[Item] = FairQueue()
        self._most_long, self._is_long = most_long, is_long
        self._long = self._put_off = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        with self._lock:
            return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        with self._lock:
            return iter(list(self._items))

    def push(self, caller: Hashable, item: Item) -> None:
        """Append an item to its caller's line. `take` is to be called once for it."""
        with self._lock:
            self._items.push(caller, item)

    def take(self) -> Item | None:
        """Remove and return the next item; None if only long ones wait and none may begin, which `ended` makes up for."""
        with self._lock:
            may_begin = self._long < self._most_long
            found = self._items.take(lambda taken, one: not taken and (may_begin or not self._is_long(one)))
            if not found:
                self._put_off += 1
                return None
            self._long += self._is_long(found[0])
            return found[0]

    def ended(self, item: Item) -> int:
        """Note that an item is not in work any more. Return how often `take` is to be called again."""
        if not self._is_long(item):
            return 0
        with self._lock:
            self._long -= 1
            again, self._put_off = self._put_off, 0
            return again
