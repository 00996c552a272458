"""A limit on the total number of pixels that are processed at once."""

import math
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from cutout.inference.errors import DeadlineExceeded


class PixelBudget:
    """Limits the memory of the photos being processed, whatever their sizes. First come, first served."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._left = total
        self._changed = threading.Condition()
        self.turns: deque[object] = deque()

    @property
    def total(self) -> int:
        """Return how many pixels may be processed at once."""
        return self._total

    def resize(self, total: int) -> None:
        """Change the total while nothing is held."""
        with self._changed:
            assert self._left == self._total, "photos are in work"
            self._total = self._left = total

    @contextmanager
    def hold(self, pixels: int, deadline: float = math.inf) -> Iterator[None]:
        """Wait until `pixels` fit into the budget, and reserve them; a photo larger than the budget reserves all of it.

        `deadline` is a time of `time.monotonic`.

        Raises:
            DeadlineExceeded: the pixels were not available in time.

        """
        pixels = min(pixels, self._total)
        turn = object()
        with self._changed:
            self.turns.append(turn)
            left = deadline - time.monotonic() if deadline < math.inf else None
            mine = self._changed.wait_for(lambda: self.turns[0] is turn and self._left >= pixels, left)
            self.turns.remove(turn)
            self._changed.notify_all()
            if not mine:
                raise DeadlineExceeded("The photo had to wait too long. Try again in a moment.")
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()
