"""What the network saw in the photos that were last in work, for the next refinement of one of them."""

import threading
from collections import OrderedDict
from collections.abc import Hashable

from torch import Tensor

from cutout.inference.loaded import Loaded
from cutout.inference.matting.pipeline import Seen

# Of all photos together. A pixel takes five bytes, one of a small copy three, and each photo's masks a few megabytes more,
# however small it is.
MOST_BYTES = 160_000_000


class RecentlySeen:
    """Keeps what was last put in, up to a number of bytes. Safe to use from any number of threads."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most = most_bytes
        self._kept: OrderedDict[Hashable, Seen | Loaded] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Seen | None:
        """Return what was put in under this key, if it is still there."""
        found = self._get(key)
        return found if isinstance(found, Seen) else None

    def copy(self, key: Hashable) -> Loaded | None:
        """Return the small copy of a photo that was put in under this key, if it is still there."""
        found = self._get(key)
        return found if isinstance(found, Loaded) else None

    def put(self, key: Hashable, seen: Seen | Loaded) -> None:
        """Keep what was seen, unless it is too large, or was not refined: then it is computed again in no time."""
        if (isinstance(seen, Seen) and seen.alpha is None) or _bytes_of(seen) > self._most:
            return
        with self._lock:
            self._kept[key] = seen
            self._kept.move_to_end(key)
            while sum(_bytes_of(one) for one in self._kept.values()) > self._most:
                self._kept.popitem(last=False)

    def _get(self, key: Hashable) -> Seen | Loaded | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)


def _bytes_of(seen: Seen | Loaded) -> int:
    tensors: tuple[Tensor | None, ...]
    if isinstance(seen, Loaded):
        tensors = seen.rgb, seen.alpha, seen.ground
    else:
        tensors = seen.whole, seen.alpha, seen.coverage, seen.merged
    # A tensor may be a part of one that it keeps in memory.
    return sum(one.untyped_storage().nbytes() for one in tensors if one is not None)
