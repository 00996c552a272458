"""The storage interface and its errors."""

import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Protocol

from cutout.app.core.atomic_write import say_full
from cutout.app.core.errors import OperatorError, ServiceError

# Below this much free space, storage counts as unusable; results take some megabytes each.
LEAST_ROOM_BYTES = 32_000_000
# Chunk size of a stream that is read.
CHUNK_BYTES = 1 << 20


class StorageError(ServiceError):
    """A file could not be written or read. The message is safe for clients, `cause` is only for the operator."""

    code, status = "STORAGE_UNAVAILABLE", 503
    example = "The file cannot be written (No space left on device). Free some space or set CUTOUT_DATA_DIR."
    retry_after = 60

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class StorageUnusable(OperatorError):
    """The configured storage cannot keep results."""


class Storage(Protocol):
    """Files under short keys such as "results/0b6c….png". `name` is the location in a form that people can read."""

    name: str

    def room(self) -> int | None:
        """Return how many bytes can still be written, or None if that is unknown.

        Raises:
            StorageError: the free space cannot be determined.

        """
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write a file atomically.

        Raises:
            StorageError: the file cannot be written, for example because the disk is full.

        """
        ...

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        """Write a file atomically from chunks as they come, without holding the whole file in memory.

        Raises:
            StorageError: the file cannot be written, for example because the disk is full.
            Exception: an error raised by `chunks` is passed on unchanged.

        """
        ...

    def get(self, key: str) -> bytes | None:
        """Return a file's bytes, or None if there is no such file."""
        ...

    def stream(self, key: str, start: int = 0) -> tuple[int, Iterator[bytes]] | None:
        """Return a file's size in bytes and its bytes from `start` on in chunks of at most 1 MB; None if it is missing.

        All chunks are from the same version of the file: if it is replaced meanwhile, the iterator continues with the
        old version or raises. There is no time limit for a slow reader.

        Raises:
            StorageError: the file cannot be read. The iterator raises it too, for example if the file was deleted or
                replaced.

        """
        ...

    def delete(self, key: str) -> None:
        """Delete a file; do nothing if there is none."""
        ...

    def list_older_than(self, age: timedelta, prefix: str) -> list[str]:
        """Return the keys of files under `prefix`, such as "uploads/", that were written longer ago than `age`."""
        ...

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        """Delete the files under `prefix`, such as "results/", that are older than `age`; return their number."""
        ...


class Source:
    """Wrapper of chunks to write. `error` is the exception that they raised, to tell it from one of the storage."""

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
    """Check at start-up that results can be stored: write, read and delete a file, and check the free space.

    Raises:
        StorageUnusable: the check failed; the message says why and what to do.

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
        raise StorageUnusable(f"Results cannot be stored. {why}{check}") from error
    if found != data:
        raise StorageUnusable(f"{storage.name} does not return what was just written to it.")
