"""Results in a folder of this host."""

import time
from datetime import timedelta
from pathlib import Path

from app.files import write_whole
from app.storage import StorageError


class LocalStorage:
    """Files below `root`. Keys are the service's own, never a user's text."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    def put(self, key: str, data: bytes) -> None:
        try:
            write_whole(self.root / key, data)
        except OSError as error:
            raise StorageError(
                f"The result cannot be written ({error.strerror}). Free some space or set CUTOUT_DATA_DIR."
            ) from error

    def get(self, key: str) -> bytes | None:
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"The result cannot be read ({error.strerror}).") from error

    def delete(self, key: str) -> None:
        try:
            (self.root / key).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"The file cannot be deleted ({error.strerror}).") from error

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        limit = time.time() - age.total_seconds()
        try:
            old = [
                file
                for file in (self.root / prefix).rglob("*")
                if file.is_file() and file.stat().st_mtime < limit
            ]
        except OSError as error:
            raise StorageError(f"{self.root} cannot be read ({error.strerror}).") from error
        for file in old:
            self.delete(str(file.relative_to(self.root)))
        return len(old)
