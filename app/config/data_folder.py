"""The folder of what a host keeps, and who gets at it: the user that the service runs as, and nobody else."""

import logging
import os
import stat
from pathlib import Path

from cutout.app.config.settings import DATABASE_FILE, Settings
from cutout.app.core.atomic_write import is_full, make_private_file, make_private_folder, say_full
from cutout.app.storage.base import StorageUnusable

log = logging.getLogger(__name__)

OWN_FILES = (DATABASE_FILE, *(f"{DATABASE_FILE}-{more}" for more in ("wal", "shm", "journal")), "secret")
OWN_FOLDERS = ("results", "uploads", "probes", "valkey")


def open_data_folder(settings: Settings) -> None:
    """Make the folder of what this host keeps, if it keeps anything, and keep others out of it.

    Raises:
        StorageUnusable: it cannot be made, or not be looked at.

    """
    folder = settings.data_dir.expanduser()
    try:
        if settings.embedded or settings.s3_bucket is None:
            keep_others_out(folder)
        if settings.embedded:
            # SQLite gives its other files the mode of this one.
            make_private_file(folder / DATABASE_FILE)
    except OSError as error:
        if is_full(error):
            raise StorageUnusable(say_full(folder, "CUTOUT_DATA_DIR")) from error
        raise StorageUnusable(
            f"Nothing can be kept in {folder} ({error.strerror}). Check CUTOUT_DATA_DIR."
        ) from error


def keep_others_out(folder: Path) -> None:
    """Make the service's data folder, or keep others out of one that an earlier version has made.

    All that is the service's own in it is for this user alone afterwards. The folder itself is left as it is where somebody
    shares it on purpose: where other folders or other users' files lie in it too, it is another user's, or its mode has
    the set-group-ID or the sticky bit.

    Raises:
        OSError: it cannot be made, or not be looked at.

    """
    make_private_folder(folder)
    found = folder.stat()
    is_shared = found.st_uid != os.geteuid() or bool(found.st_mode & (stat.S_ISGID | stat.S_ISVTX))
    if not (is_shared or any(map(_is_of_somebody_else, folder.iterdir()))):
        _keep_others_out(folder)
    elif found.st_mode & 0o077:
        log.info("The data folder %s is shared; what the service keeps in it is private.", folder)
    for name in OWN_FILES:
        _keep_others_out(folder / name)
    for name in OWN_FOLDERS:
        # Once it is closed nobody else gets at what lies deeper, and all that is new there is made private.
        if _keep_others_out(folder / name):
            for deeper in (folder / name).rglob("*"):
                _keep_others_out(deeper)


def _is_of_somebody_else(entry: Path) -> bool:
    if entry.name in (*OWN_FILES, *OWN_FOLDERS):
        return False
    found = entry.lstat()
    return stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid()


def _keep_others_out(path: Path) -> bool:
    """Take from others what they may do with a file or folder of this user's; tell whether they could do anything."""
    try:
        found = path.lstat()
        if found.st_uid != os.geteuid() or not found.st_mode & 0o077 or stat.S_ISLNK(found.st_mode):
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
    except FileNotFoundError:
        return False
    return True
