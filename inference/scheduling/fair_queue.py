"""A queue in which callers take turns."""

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Items in lines, one a caller: those of one caller stay in order, and callers take turns.

    So a caller with one photo waits for one photo of each other caller, not for all five hundred of the one who
    came before. Not locked: that is the owner's business.
    """

    def __init__(self) -> None:
        self._lines: dict[Hashable, deque[Item]] = {}  # in the order of their turns

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Item]:
        for line in self._lines.values():
            yield from line

    def push(self, caller: Hashable, item: Item) -> None:
        """Put an item at the end of its caller's line."""
        self._lines.setdefault(caller, deque()).append(item)

    def put_back(self, caller: Hashable, item: Item) -> None:
        """Put an item that was taken at the head of its caller's line, and make it that caller's turn."""
        line = self._lines.pop(caller, deque())
        line.appendleft(item)
        self._lines = {caller: line, **self._lines}

    def discard(self, caller: Hashable, item: Item) -> None:
        """Take an item out, wherever it is in its caller's line, if it is there."""
        line = self._lines.get(caller, deque())
        if item in line:
            line.remove(item)
            if not line:
                del self._lines[caller]

    def take(self, fits: Callable[[list[Item], Item], bool]) -> list[Item]:
        """Take items in turn, while `fits` says of the head of a line that it may join those taken.

        A caller whose head may not join is passed over, and has the first turn next time.
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
                self._lines[caller] = line  # behind the others
                turns.append(caller)
        return taken
