"""Return freed heap memory to the operating system."""

import ctypes
import sys
import threading
import time

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
    """Gives freed memory back regularly; called after each photo, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tidied = time.monotonic()

    def tidy(self) -> None:
        """Give freed memory back, if the last time is at least TIDY_EVERY_SECONDS ago."""
        with self._lock:
            if time.monotonic() - self._tidied < TIDY_EVERY_SECONDS:
                return
            self._tidied = time.monotonic()
        give_back_freed()
