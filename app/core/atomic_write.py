"""Atomic file writes: a file is written completely or not at all."""

import errno
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

# The disk has no room, or the user's quota is used up.
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)
FULL = "The disk with {folder} is full. Free some space there, or set {setting} to a folder on another disk."


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk has no room."""
    return error.errno in FULL_ERRORS


def say_full(folder: Path | str, setting: str) -> str:
    """Return a message that the disk with `folder` is full, naming the `setting` to change."""
    return FULL.format(folder=folder, setting=setting)


def write_whole(target: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file with `write_stream`.

    Raises:
        OSError: it cannot be written; nothing is left behind.

    """
    write_stream(target, (data,), private=private)


def write_stream(target: Path, chunks: Iterable[bytes], *, private: bool = False) -> None:
    """Write to a temporary file in the same folder and rename it, so that a partial file is never visible.

    Missing folders are created. If `private`, the file and the created folders are accessible to this user only; else
    the umask applies.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        Exception: any error that `chunks` raises; nothing is left behind.

    """
    if private:
        make_private_folder(target.parent)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".cutout-{uuid.uuid4().hex}")
    mode = PRIVATE_FILE if private else 0o666
    try:
        with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.writelines(chunks)
        staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise


# Modes for folders and files that only their owner may access.
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


def make_private_folder(folder: Path) -> None:
    """Create a folder and its missing parents, accessible to this user only. An existing folder stays unchanged.

    Raises:
        OSError: it cannot be created.

    """
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    try:
        # Another thread may have created it.
        folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def make_private_file(file: Path) -> None:
    """Create an empty file accessible to this user only, unless the file exists.

    Raises:
        OSError: it cannot be created.

    """
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE))
