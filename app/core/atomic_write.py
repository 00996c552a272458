"""Files written whole or not at all."""

import errno
import os
import uuid
from collections.abc import Iterable
from pathlib import Path

# A disk without room, a quota that is used up.
FULL_ERRORS = (errno.ENOSPC, errno.EDQUOT)
FULL = "The disk with {folder} is full. Free some space there, or set {setting} to a folder on another disk."


def is_full(error: OSError) -> bool:
    """Tell whether something could not be written because its disk has no room."""
    return error.errno in FULL_ERRORS


def say_full(folder: Path | str, setting: str) -> str:
    """Say that the disk with `folder` is full, and which `setting` names another."""
    return FULL.format(folder=folder, setting=setting)


def write_whole(target: Path, data: bytes, *, private: bool = False) -> None:
    """Write a file as `write_stream` does.

    Raises:
        OSError: it cannot be written; nothing is left behind.

    """
    write_stream(target, (data,), private=private)


def write_stream(target: Path, chunks: Iterable[bytes], *, private: bool = False) -> None:
    """Write beside the target, then rename: nobody ever sees half a file. Folders are made as needed.

    What is `private` is for this user alone, folders that are made for it included; else the user's umask counts.

    Raises:
        OSError: it cannot be written; nothing is left behind.
        Exception: what `chunks` raise; nothing is left behind.

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


# For files and folders that are their owner's alone.
PRIVATE_FOLDER, PRIVATE_FILE = 0o700, 0o600


def make_private_folder(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone. One that is there stays as it is.

    Raises:
        OSError: it cannot be made.

    """
    if folder.is_dir():
        return
    make_private_folder(folder.parent)
    try:
        # Another thread may be faster.
        folder.mkdir(PRIVATE_FOLDER, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None


def make_private_file(file: Path) -> None:
    """Make an empty file for this user alone, unless there is one.

    Raises:
        OSError: it cannot be made.

    """
    os.close(os.open(file, os.O_WRONLY | os.O_CREAT, PRIVATE_FILE))
