"""The data folder, accessible only to the user that the service runs as."""

import logging
import os
import stat
from pathlib import Path

from cutout.app.config.settings import DATABASE_FILE, Settings
from cutout.app.core.atomic_write import is_full, make_private_file, make_private_folder, say_full
from cutout.app.storage.base import StorageUnusable

log = logging.getLogger(__name__)

OWN_FILES = (DATABASE_FILE, *(f"{DATABASE_FILE}-{more}" for more in ("wal", "shm", "journal")), "secret")
OWN_FOLDERS = ("results", "uploads", "originals", "thumbnails", "probes", "valkey")


def open_data_folder(settings: Settings) -> None:
    """Create the data folder, if this host stores anything, and make it private.

    Raises:
        StorageUnusable: the folder cannot be created or read.

    """
    folder = settings.data_dir.expanduser()
    try:
        if settings.embedded or settings.s3_bucket is None:
            keep_others_out(folder)
        if settings.embedded:
            # SQLite creates its other files with the mode of this one.
            make_private_file(folder / DATABASE_FILE)
    except OSError as error:
        if is_full(error):
            raise StorageUnusable(say_full(folder, "CUTOUT_DATA_DIR")) from error
        raise StorageUnusable(
            f"Files cannot be stored in {folder} ({error.strerror}). Check CUTOUT_DATA_DIR."
        ) from error


def keep_others_out(folder: Path) -> None:
    """Create the service's data folder, or make one private that an earlier version has created.

    The service's files in it become accessible to this user only. The folder's own mode is left alone if it seems to
    be shared on purpose: it belongs to another user, has the set-group-ID or sticky bit, or contains other folders or
    other users' files.

    Raises:
        OSError: the folder cannot be created or read.

    """
    make_private_folder(folder)
    found = folder.stat()
    is_shared = found.st_uid != os.geteuid() or bool(found.st_mode & (stat.S_ISGID | stat.S_ISVTX))
    if not (is_shared or any(map(_is_of_somebody_else, folder.iterdir()))):
        _keep_others_out(folder)
    elif found.st_mode & 0o077:
        log.info("The data folder %s is shared; the service's files in it are private.", folder)
    for name in OWN_FILES:
        _keep_others_out(folder / name)
    for name in OWN_FOLDERS:
        # A folder that was private already is skipped: others cannot reach its contents, and new files are private.
        if _keep_others_out(folder / name):
            for deeper in (folder / name).rglob("*"):
                _keep_others_out(deeper)


def _is_of_somebody_else(entry: Path) -> bool:
    if entry.name in (*OWN_FILES, *OWN_FOLDERS):
        return False
    found = entry.lstat()
    return stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid()


def _keep_others_out(path: Path) -> bool:
    """Remove the permissions of other users on this user's file or folder; return whether they had any."""
    try:
        found = path.lstat()
        if found.st_uid != os.geteuid() or not found.st_mode & 0o077 or stat.S_ISLNK(found.st_mode):
            return False
        path.chmod(stat.S_IMODE(found.st_mode) & 0o700)
    except FileNotFoundError:
        return False
    return True
