"""A queue in which callers take turns."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """A queue with one line of items per caller: items of one caller stay in order, and callers take turns.

    So a caller with one photo waits for one photo of each other caller, not for all five hundred of a caller that came
    first. Not thread-safe: the owner has to hold a lock.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[Item]] = {}  # in the order of the callers' turns

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Item]:
        for line in self._lines.values():
            yield from line

    def push(self, caller: Hashable, item: Item) -> None:
        """Append an item to its caller's line."""
        self._lines.setdefault(caller, deque()).append(item)

    def put_back(self, caller: Hashable, item: Item) -> None:
        """Return a taken item to the head of its caller's line, and give that caller the next turn."""
        line = self._lines.pop(caller, deque())
        line.appendleft(item)
        self._lines = {caller: line, **self._lines}

    def discard(self, caller: Hashable, item: Item) -> None:
        """Remove an item from its caller's line, if it is there."""
        line = self._lines.get(caller, deque())
        if item in line:
            line.remove(item)
            if not line:
                del self._lines[caller]

    def take(self, fits: Callable[[list[Item], Item], bool]) -> list[Item]:
        """Remove and return items, one per caller in turn, for as long as any fits.

        `fits` gets the items taken so far and the first item of a line, and returns whether that item may join them. A
        caller whose first item does not fit is skipped, and keeps its place before those that were served.
        """
        taken: list[Item] = []
        turns = deque(self._lines)
        while turns:
            caller = turns.popleft()
            line = self._lines[caller]
            if not fits(taken, line[0]):
                continue
            taken.append(line.popleft())
            del self._lines[caller]
            if line:
                self._lines[caller] = line  # now last in turn
                turns.append(caller)
        return taken
