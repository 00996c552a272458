"""A gate that photos pass through, and that is closed while the device must not be used for photos."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Lets any number of photos in, or one other piece of work, for which photos wait.

    While a CUDA graph is captured, almost any CUDA call of another thread can spoil it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._closed = False

    @property
    def inside(self) -> int:
        """Return the number of photos inside."""
        return self._inside

    @contextmanager
    def photo(self) -> Iterator[None]:
        """Wait until the gate is open, and be inside for the duration of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Close the gate, wait until no photo is inside, and open it again at the end of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = True
            self._changed.wait_for(lambda: not self._inside)
        try:
            yield
        finally:
            with self._changed:
                self._closed = False
                self._changed.notify_all()
