"""Return freed heap memory to the operating system."""

import ctypes
import math
import sys
import threading
import time
from collections.abc import Callable

TIDY_EVERY_SECONDS = 5.0  # keeps the memory of a long run small, and costs nothing


def give_back_freed() -> None:
    """Return freed memory that glibc keeps for reuse to the system. Does nothing without Linux and `malloc_trim`.

    Loading an ONNX graph leaves 230 MB of such memory. Decoding and encoding photos of mixed sizes on several threads
    can leave up to twice the memory that is really in use.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Tidier:
    """Gives freed memory back regularly; called after each photo, from any thread.

    It does so once more when no photo has followed for a while: what the last photos of a burst took is freed only when
    their results have been sent, and would otherwise be kept until the next photo.
    """

    def __init__(self, call_at: Callable[[float, Callable[[], None]], object]) -> None:
        """`call_at` calls a function at a time of `time.monotonic`."""
        self._call_at = call_at
        self._lock = threading.Lock()
        self._tidied = time.monotonic()
        self._called = -math.inf
        self._watches = False

    def tidy(self) -> None:
        """Give freed memory back, if the last time is at least TIDY_EVERY_SECONDS ago."""
        with self._lock:
            self._called = now = time.monotonic()
            watches, self._watches = self._watches, True
            is_due = now - self._tidied >= TIDY_EVERY_SECONDS
            if is_due:
                self._tidied = now
        if not watches:
            self._call_at(now + TIDY_EVERY_SECONDS, self._look)
        if is_due:
            give_back_freed()

    def _look(self) -> None:
        """Give freed memory back if no photo has followed; look again later if one has."""
        with self._lock:
            quiet_at = self._called + TIDY_EVERY_SECONDS
            self._watches = quiet_at > time.monotonic()
        if self._watches:
            self._call_at(quiet_at, self._look)
        else:
            give_back_freed()
