"""What the network saw in the photos that were last in work, for the next refinement of one of them."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from cutout.inference.matting.pipeline import Seen

# The most pixels of all photos together; each takes five bytes.
MOST_PIXELS = 32_000_000


class RecentlySeen:
    """Keeps what was last put in, up to a number of pixels. Safe to use from any number of threads."""

    def __init__(self, most_pixels: int = MOST_PIXELS) -> None:
        self._most = most_pixels
        self._kept: OrderedDict[Hashable, Seen] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Seen | None:
        """Return what was put in under this key, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, seen: Seen) -> None:
        """Keep what was seen, unless it is too large, or was not refined: then it is computed again in no time."""
        if not 0 < _pixels(seen) <= self._most:
            return
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            while sum(_pixels(one) for one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)


def _pixels(seen: Seen) -> int:
    return 0 if seen.alpha is None else seen.alpha.numel()
