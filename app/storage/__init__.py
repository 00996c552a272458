"""Where results lie."""

import uuid
from datetime import timedelta
from typing import Protocol

from app.codes import Explained


class StorageError(Exception):
    """A file could not be written or read. The message is for anybody, `cause` only for the host's owner."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class StorageUnusable(Explained):
    """Results cannot be kept here."""


class Storage(Protocol):
    """Files under short keys such as "results/0b6c….png". `name` tells people where they lie."""

    name: str

    def put(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StorageError: it cannot be written (a full disk, say).

        """
        ...

    def get(self, key: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        ...

    def delete(self, key: str) -> None:
        """Delete a file; where there is none, nothing happens."""
        ...

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        """Delete what was written longer ago than `age` under `prefix`, such as "results/"; return how many files."""
        ...


def require_usable(storage: Storage) -> None:
    """Write a file, read it and delete it, so that a service that starts is one that can keep a result.

    Raises:
        StorageUnusable: that does not work; the message says why and what to check.

    """
    key, data = f"probes/{uuid.uuid4()}", b"written at the start of the service"
    try:
        storage.put(key, data)
        found = storage.get(key)
        storage.delete(key)
    except StorageError as error:
        raise StorageUnusable(
            f"Results cannot be kept. {error.cause or error} Check CUTOUT_DATA_DIR, or the S3_… settings."
        ) from error
    if found != data:
        raise StorageUnusable(f"{storage.name} does not give back what was just written there.")
