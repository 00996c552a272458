"""Memory that is free but kept."""

import ctypes
import sys


def give_back_freed() -> None:
    """Return to the system what was freed and what glibc keeps for later, on Linux.

    Loading a graph leaves 230 MB so; photos of mixed sizes, decoded and encoded on several threads,
    leave up to twice what is really in use. Elsewhere, and with another C library, nothing is done.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
