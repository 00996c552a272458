"""Backup and restore of a service that keeps its own database: one file with the database, the secret and all pictures.

The files are those of one moment. While the database's write lock is held, no job changes its state, and a file is deleted
only after the change that makes it unneeded. First each file gets a second name, a hard link. Then the lock is taken, in
which new files get theirs and a reader begins: a moment, in which requests wait. Then the database is copied, as that
reader sees it, and the archive is written.
"""

import fcntl
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from sqlalchemy.exc import DatabaseError

from cutout.app.config.data_folder import OWN_FILES, open_data_folder
from cutout.app.config.settings import DATABASE_FILE, Settings
from cutout.app.core.atomic_write import (
    PRIVATE_FILE,
    PRIVATE_FOLDER,
    is_full,
    make_private_folder,
    say_full,
)
from cutout.app.core.errors import OperatorError
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs.originals import ORIGINALS
from cutout.app.jobs.queries import RESULTS, UPLOADS
from cutout.app.jobs.thumbnails import THUMBNAILS
from cutout.version import __version__

FORMAT = 1
MANIFEST, SECRET = "manifest.json", "secret"
FOLDERS = tuple(prefix.rstrip("/") for prefix in (RESULTS, UPLOADS, ORIGINALS, THUMBNAILS))
STAGED = ".backup-"
# more than any manifest has
LARGEST_MANIFEST = 100_000
# names of files that are still being written
UNFINISHED = ".cutout-"
NOT_HERE = (
    "The database is in DATABASE_URL, and this command is for services that keep their own. Use pg_dump, and then copy"
    " the bucket or the folder of results: docs/backup.md."
)


class BackupError(OperatorError):
    """A backup cannot be made, read or restored. The message says why and what to do."""


@dataclass(frozen=True)
class Manifest:
    """The first file of an archive: what it holds. `files` and `bytes` count all files after it."""

    format: int
    version: str
    revision: str | None
    made_at: str
    files: int
    bytes: int


def save(settings: Settings, out: BinaryIO) -> Manifest:
    """Write an archive (tar, uncompressed: pictures are compressed) to `out`, also while the service runs.

    With S3 it has the database and the secret; the bucket is not part of it.

    Raises:
        BackupError: there is no database of the service's own, or no room for a copy of it.
        OSError: `out` cannot be written.

    """
    if not settings.embedded:
        raise BackupError(NOT_HERE)
    folder = settings.data_dir.expanduser()
    if not (folder / DATABASE_FILE).is_file():
        raise BackupError(
            f"There is no {folder / DATABASE_FILE}. Set CUTOUT_DATA_DIR to the service's folder."
        )
    with _staging(folder) as staged:
        with _explained(folder):
            revision = _stage(settings, folder, staged)
        there = sorted(path for path in staged.rglob("*") if path.is_file())
        files = [(path, path.relative_to(staged).as_posix()) for path in there]
        total = sum(path.stat().st_size for path, _ in files)
        manifest = Manifest(FORMAT, __version__, revision, now().isoformat(), len(files), total)
        _write_archive(out, manifest, files)
    return manifest


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say in a `BackupError` what is wrong with the data folder or the database in it."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise BackupError(say_full(folder, "CUTOUT_DATA_DIR")) from error
        raise BackupError(
            f"{folder} cannot be read or written ({error.strerror or error}). Check CUTOUT_DATA_DIR, and that this is the"
            " service's user."
        ) from error
    except (DatabaseError, sqlite3.Error) as error:
        found = error.orig if isinstance(error, DatabaseError) else error
        if getattr(found, "sqlite_errorname", "") == "SQLITE_FULL":
            raise BackupError(say_full(folder, "CUTOUT_DATA_DIR")) from error
        raise BackupError(
            f"The database {folder / DATABASE_FILE} cannot be read or copied ({found}). Check its disk, and that there is"
            " room for a second one."
        ) from error


@contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """Yield a folder in `folder` for the time of a command. What killed commands have left is removed first.

    It holds second names of files, and so the room of deleted ones. The folder of a command that runs is locked.
    """
    with ExitStack() as stack:
        with _explained(folder), _locked(folder):
            for left in folder.glob(f"{STAGED}*"):
                with suppress(OSError), _locked(left, fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            name = tempfile.TemporaryDirectory(prefix=STAGED, dir=folder, ignore_cleanup_errors=True)
            staged = Path(stack.enter_context(name))
            stack.enter_context(_locked(staged))
        yield staged


@contextmanager
def _locked(folder: Path, more: int = 0) -> Iterator[None]:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | more)
        except BlockingIOError:
            raise
        except OSError:
            pass  # NFS locks no folders: backups must not overlap there
        yield
    finally:
        os.close(opened)


def _stage(settings: Settings, folder: Path, staged: Path) -> str | None:
    """Collect the files of one moment; return the database's revision."""
    database = Database(settings.database)
    try:
        revision = migrate.revision(database)
        linked: dict[str, int] = {}
        _link_new(folder, staged, linked)
        with closing(sqlite3.connect(folder / DATABASE_FILE, isolation_level=None)) as source:
            with database.begin() as session:
                session.connection()  # which takes the lock
                _link_new(folder, staged, linked)
                source.execute("BEGIN")
                source.execute(
                    "SELECT count(*) FROM sqlite_master"
                ).fetchone()  # now it reads, and keeps seeing this
            _copy_database(source, staged / DATABASE_FILE)
    finally:
        database.close()
    return revision


def _copy_database(source: sqlite3.Connection, target: Path) -> None:
    """Copy what a reader sees; others write meanwhile."""
    with closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        # one file: no others belong to it
        copy.execute("PRAGMA journal_mode = DELETE")


def _link_new(folder: Path, staged: Path, linked: dict[str, int]) -> None:
    """Give each file that has none yet a second name in `staged`.

    `linked` has the inode of each file by its name: one that was replaced since is another file.
    """
    for entry in _own_files(folder):
        path = Path(entry.path)
        name = path.relative_to(folder).as_posix()
        if linked.get(name) != entry.inode():
            target = staged / name
            target.parent.mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            _add_name(path, target)
            linked[name] = entry.inode()


def _own_files(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name == SECRET)
    for name in FOLDERS:
        yield from _entries_below(folder / name)


def _entries_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the finished files below a folder, without a call for each of them, as there may be many."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False) and not entry.name.startswith(UNFINISHED):
                yield entry


def _add_name(path: Path, target: Path) -> None:
    """Link a file, or copy it where links are not possible. One that is deleted meanwhile, being too old, is left out."""
    with suppress(FileNotFoundError):
        try:
            os.link(path, target)
        except FileNotFoundError:
            raise
        except OSError as error:
            if is_full(error):
                raise
            shutil.copy2(path, target)


def _write_archive(out: BinaryIO, manifest: Manifest, files: list[tuple[Path, str]]) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        head = json.dumps(asdict(manifest), indent=2).encode()
        tar.addfile(_entry(MANIFEST, len(head)), BytesIO(head))
        for path, name in files:
            with path.open("rb") as file:
                tar.addfile(_entry(name, path.stat().st_size, path.stat().st_mtime), file)


def _entry(name: str, size: int, mtime: float = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime, entry.mode = size, mtime, PRIVATE_FILE
    return entry


def restore(settings: Settings, archive: BinaryIO) -> Manifest:
    """Unpack an archive into the data folder, whole or not at all. No service may run there.

    Raises:
        BackupError: the folder has data, or the archive is damaged or none of Cutout's.
        SchemaMismatch: the archive is of a newer version, whose database this one cannot use.

    """
    if not settings.embedded:
        raise BackupError(NOT_HERE)
    folder = settings.data_dir.expanduser()
    with _explained(folder):
        make_private_folder(folder)
        owner = folder.stat().st_uid
    if os.geteuid() == 0 != owner:
        raise BackupError(
            f"{folder} belongs to the user {owner}, who could not read what root restores. Run this command as that user,"
            f" such as with: sudo -u '#{owner}'"
        )
    _refuse_data(folder)
    with _staging(folder) as staged:
        manifest = _unpack(archive, staged, folder)
        _check_database(staged / DATABASE_FILE)
        with _explained(folder), _locked(folder):
            _refuse_data(folder)  # of another command, or of a service that was started meanwhile
            # the database last, so that it names no file that is not there yet
            for entry in sorted(staged.iterdir(), key=lambda path: path.name == DATABASE_FILE):
                entry.rename(folder / entry.name)
    open_data_folder(settings)
    return manifest


def _refuse_data(folder: Path) -> None:
    """Refuse a folder with data. SQLite's own files count: it would take those of an older database as this one's."""
    there = [name for name in (*OWN_FILES, *FOLDERS) if (folder / name).exists()]
    if there:
        raise BackupError(
            f"{folder} has data already: {', '.join(there)}. Stop the service, move that folder away, and restore into an"
            " empty one."
        )


def _unpack(archive: BinaryIO, staged: Path, folder: Path) -> Manifest:
    count = total = 0
    try:
        with tarfile.open(fileobj=archive, mode="r|*") as tar:
            manifest = _read_manifest(tar)
            while (entry := tar.next()) is not None:
                if not (entry.isfile() and _is_own(PurePosixPath(entry.name))):
                    raise BackupError(
                        f"The archive has {entry.name!r}, which is no file of Cutout's. Use another backup."
                    )
                tar.extract(entry, staged, filter="data")
                count, total = count + 1, total + entry.size
    except (
        tarfile.TarError,
        EOFError,
        ValueError,
        KeyError,
        TypeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise BackupError(
            f"The archive is damaged or none of Cutout's ({error}). Use another backup."
        ) from error
    except OSError as error:
        if is_full(error):
            raise BackupError(say_full(folder, "CUTOUT_DATA_DIR")) from error
        raise BackupError(f"The archive cannot be unpacked ({error.strerror or error}).") from error
    if (count, total) != (manifest.files, manifest.bytes):
        raise BackupError(
            f"The archive is incomplete: it has {count} of {manifest.files} files. Use another backup."
        )
    return manifest


def _is_own(name: PurePosixPath) -> bool:
    """Return whether `save` writes files of this name."""
    if name.parts in ((DATABASE_FILE,), (SECRET,)):
        return True
    return len(name.parts) > 1 and name.parts[0] in FOLDERS and ".." not in name.parts


def _read_manifest(tar: tarfile.TarFile) -> Manifest:
    first = tar.next()
    is_one = first is not None and first.name == MANIFEST and first.size <= LARGEST_MANIFEST
    content = tar.extractfile(first) if first is not None and is_one else None
    if content is None:
        raise BackupError("The archive is none of Cutout's: it has no manifest.json.")
    manifest = Manifest(**json.load(content))
    if manifest.format != FORMAT:
        raise BackupError(
            f"The archive was made by version {manifest.version}, whose data this version, {__version__}, cannot"
            " read. Install that version, or a newer one, and restore with it."
        )
    return manifest


def _check_database(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            (found,) = connection.execute("PRAGMA integrity_check").fetchone()
    except sqlite3.Error as error:
        found = str(error)
    if found != "ok":
        raise BackupError(f"The database in the archive is damaged ({found}). Use another backup.")
    database = Database(f"sqlite:///{file}")
    try:
        # an older schema is migrated when the service starts
        if migrate.is_ahead(migrate.revision(database)):
            migrate.require_current(database)
    finally:
        database.close()
