"""Results in a folder of this host."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

from cutout.app.core.atomic_write import is_full, say_full, write_stream, write_whole
from cutout.app.storage.base import CHUNK_BYTES, Source, StorageError


class LocalStorage:
    """Files below `root`. Keys are the service's own, never a user's text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def room(self) -> int | None:
        try:
            return shutil.disk_usage(self.root).free
        except OSError as error:
            raise self._unwritable(error) from error

    def put(self, key: str, data: bytes) -> None:
        try:
            write_whole(self.root / key, data, private=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def put_stream(self, key: str, chunks: Iterable[bytes]) -> None:
        source = Source(chunks)
        try:
            write_stream(self.root / key, source, private=True)
        except OSError as error:
            if error is source.error:
                raise
            raise self._unwritable(error) from error

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error) from error

    def stream(self, key: str, start: int = 0) -> tuple[int, Iterator[bytes]] | None:
        try:
            file = (self.root / key).open("rb")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(error) from error
        chunks = _chunks(file, start)
        next(chunks)
        return os.fstat(file.fileno()).st_size, chunks

    def delete(self, key: str) -> None:
        file = self.root / key
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"The file cannot be deleted ({error.strerror}).") from error
        # The folder of a batch goes with its last file, the one of all results stays.
        if key.count("/") > 1:
            with suppress(OSError):
                file.parent.rmdir()

    def list_older_than(self, age: timedelta, prefix: str) -> list[str]:
        limit = time.time() - age.total_seconds()
        try:
            return [
                file.relative_to(self.root).as_posix()
                for file in (self.root / prefix).rglob("*")
                if file.is_file() and file.stat().st_mtime < limit
            ]
        except OSError as error:
            raise StorageError(f"{self.root} cannot be read ({error.strerror}).") from error

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        old = self.list_older_than(age, prefix)
        for key in old:
            self.delete(key)
        return len(old)

    def _unwritable(self, error: OSError) -> StorageError:
        if is_full(error):
            return StorageError(say_full(self.root, "CUTOUT_DATA_DIR"))
        return StorageError(
            f"The file cannot be written ({error.strerror}). Free some space or set CUTOUT_DATA_DIR."
        )


def _chunks(file: BinaryIO, start: int) -> Iterator[bytes]:
    """Read an open file, which stays what it is when another is written in its place. The first chunk is none: from
    there on the file is closed with the iterator, read or not.
    """
    with file:
        yield b""
        try:
            file.seek(start)
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise _unreadable(error) from error


def _unreadable(error: OSError) -> StorageError:
    return StorageError(f"The file cannot be read ({error.strerror}).")
