"""Where results lie."""

from datetime import timedelta
from typing import Protocol


class StorageError(Exception):
    """A file could not be written or read; the message says why and what to do."""


class Storage(Protocol):
    """Files under short keys such as "results/0b6c….png"."""

    def put(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StorageError: it cannot be written (a full disk, say).

        """
        ...

    def get(self, key: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        ...

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        """Delete what was written longer ago than `age` under `prefix`, such as "results/"; return how many files."""
        ...
