"""Where results lie."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Protocol

from cutout.app.core.atomic_write import say_full
from cutout.app.core.errors import OperatorError, ServiceError

# Less is as good as none: pictures are of some megabytes.
LEAST_ROOM_BYTES = 32_000_000
# Of a stream that is read.
CHUNK_BYTES = 1 << 20


class StorageError(ServiceError):
    """A file could not be written or read. The message is for anybody, `cause` only for the host's owner."""

    code, status = "STORAGE_UNAVAILABLE", 503
    example = "The file cannot be written (No space left on device). Free some space or set CUTOUT_DATA_DIR."
    retry_after = 60

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class StorageUnusable(OperatorError):
    """Results cannot be kept here."""


class Storage(Protocol):
    """Files under short keys such as "results/0b6c….png". `name` tells people where they lie."""

    name: str

    def room(self) -> int | None:
        """Return how many bytes can still be written; None where nobody knows.

        Raises:
            StorageError: that cannot be found out.

        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all.

        Raises:
            StorageError: it cannot be written (a full disk, say).

        """
        ...

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        """Write a file from its parts as they come, whole or not at all; it is never in memory as a whole.

        Raises:
            StorageError: it cannot be written (a full disk, say).
            Exception: what `chunks` raise, as it is.

        """
        ...

    def get(self, key: str) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        ...

    def stream(self, key: str, start: int = 0) -> tuple[int, Iterator[bytes]] | None:
        """Return a file's size in bytes, and its bytes from `start` on in chunks of 1 MB at most; None where there is none.

        What comes is always one file: where another is written under the key meanwhile, the chunks go on with the old
        one, or raise. They take as long as the reader does.

        Raises:
            StorageError: it cannot be read; the chunks raise it too, also when the file was deleted or replaced.

        """
        ...

    def delete(self, key: str) -> None:
        """Delete a file; where there is none, nothing happens."""
        ...

    def list_older_than(self, age: timedelta, prefix: str) -> list[str]:
        """Return the keys of what was written longer ago than `age` under `prefix`, such as "uploads/"."""
        ...

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        """Delete what was written longer ago than `age` under `prefix`, such as "results/"; return how many files."""
        ...


class Source:
    """Chunks to write. `error` is what they raised themselves: nothing of the storage's, whatever its type."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = chunks
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._chunks
        except BaseException as error:
            self.error = error
            raise


def require_usable(storage: Storage) -> None:
    """Write a file, read it and delete it, and see whether there is room for pictures: a service that starts is one that
    can keep a result.

    Raises:
        StorageUnusable: that does not work; the message says why and what to check.

    """
    key, data = f"probes/{uuid.uuid4()}", b"written to see whether results can be kept"
    try:
        storage.put(key, data)
        found = storage.get(key)
        storage.delete(key)
        room = storage.room()
        if room is not None and room < LEAST_ROOM_BYTES:
            raise StorageError(say_full(storage.name, "CUTOUT_DATA_DIR"))
    except StorageError as error:
        why = error.cause or str(error)
        check = "" if "CUTOUT_DATA_DIR" in why else " Check CUTOUT_DATA_DIR, or the S3_… settings."
        raise StorageUnusable(f"Results cannot be kept. {why}{check}") from error
    if found != data:
        raise StorageUnusable(f"{storage.name} does not give back what was just written there.")
