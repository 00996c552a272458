"""Backup of a running service, and its restore: nothing that was there at that moment is missing."""

import fcntl
import io
import json
import os
import shutil
import sqlite3
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from cutout.app import backup
from cutout.app.backup import BackupError
from cutout.app.cli import main
from cutout.app.config import settings as app_settings
from cutout.app.config.data_folder import OWN_FOLDERS
from cutout.app.config.settings import Settings
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import queries as jobs
from cutout.app.storage.local import LocalStorage
from tests.app.api_client import ANNA, API, BEN
from tests.app.batch_client import BATCH, BatchClient, opened_studio, photos
from tests.fakes import PATIENCE, wait_until

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the data folder that `opened_studio` uses, and that the commands find."""
    folder = tmp_path / "data"
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(folder))
    return folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command; return its exit code and what it said."""

    def cutout(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["cutout", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return cutout


def opened(folder: Path) -> Database:
    """Open the database in a data folder, which is created if need be."""
    folder.mkdir(exist_ok=True)
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    return database


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder with an empty database."""
    folder = tmp_path_factory.mktemp("migrated")
    opened(folder).close()
    return folder


@pytest.fixture
def small(data: Path, migrated: Path) -> Settings:
    """Return the settings of a data folder with a database and two files."""
    shutil.copytree(migrated, data)
    (data / "secret").write_text("s" * 48)
    for name in ("results/a.png", "uploads/batch/b"):
        (data / name).parent.mkdir(parents=True)
        (data / name).write_bytes(name.encode())
    return app_settings.load()


def saved(settings: Settings) -> bytes:
    out = io.BytesIO()
    backup.save(settings, out)
    return out.getvalue()


@pytest.mark.slow
def test_a_restore_drill(data: Path, tmp_path: Path, redis_url: str, run: Run) -> None:
    """A batch is done, another waits, and removals go on while the backup is made; then the folder is lost."""
    archive = tmp_path / "backup.tar"
    database = opened(data)
    with opened_studio(database, tmp_path, redis_url) as studio:
        studio.fund("anna", 100)
        studio.fund("ben", 10_000)
        done = studio.accepted(ANNA, photos(3), tier="basic")
        studio.work_off()
        waiting = studio.accepted(ANNA, photos(2), tier="basic")
        before = seen(studio, done)
        with removals(studio):
            code, said = run("backup", str(archive))
        assert code == 0, said
        assert "at revision" in said
    database.close()
    assert archive.stat().st_mode & 0o777 == 0o600
    assert not list(data.glob(".backup-*"))

    shutil.rmtree(data)
    code, said = run("restore", str(archive))
    assert code == 0, said
    database = opened(data)
    with database.read() as session:
        for job in session.scalars(select(Job)).all():
            key = (
                jobs.result_key_of(job)
                if job.status is Status.COMPLETED
                else jobs.upload_key(job.id, job.batch_id)
            )
            if job.batch_id is not None or job.status is Status.COMPLETED:
                assert (data / key).is_file(), f"{job.status}: {key}"
    with opened_studio(database, tmp_path, redis_url) as studio:
        assert seen(studio, done) == before
        assert studio.balance(BEN) < 10_000
        studio.work_off()
        assert studio.batch(ANNA, waiting)["status"] == "completed"
        assert studio.balance(ANNA) == 100 - 5 * 3
    database.close()


def seen(studio: BatchClient, batch_id: str) -> object:
    """Return what Anna sees: balance and ledger, history, and her batch with its ZIP."""
    shown = studio.batch(ANNA, batch_id)
    zipped = studio.get(f"{BATCH}/{batch_id}/download", ANNA)
    assert zipped.status_code == 200
    history = studio.get(f"{API}/jobs", ANNA).json()["jobs"]
    pictures = [
        studio.get(f"{API}/jobs/{job['jobId']}/image", ANNA).content
        for job in history
        if job["status"] == "completed"
    ]
    assert len(pictures) == 3
    ledger = studio.get(f"{API}/credits", ANNA).json()
    return ledger, [job["jobId"] for job in history], shown["status"], pictures, zipped.content


@contextmanager
def removals(studio: BatchClient) -> Iterator[None]:
    """Remove backgrounds for Ben within the block, one after the other."""
    statuses: list[int] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            statuses.append(studio.remove(BEN, tier="basic").status_code)

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        wait_until(lambda: len(statuses) > 0)
        yield
    finally:
        over.set()
        thread.join(PATIENCE)
    assert set(statuses) == {200}


def test_files_and_their_times_come_back_as_they_were(small: Settings, data: Path) -> None:
    os.utime(data / "results/a.png", (1_000_000_000, 1_000_000_000))
    (data / "results/.cutout-half").write_bytes(b"not finished")
    archive = saved(small)
    shutil.rmtree(data)
    manifest = backup.restore(small, io.BytesIO(archive))
    there = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file()}
    assert there == {"cutout.db", "secret", "results/a.png", "uploads/batch/b"}
    assert manifest.files == len(there)
    assert (data / "results/a.png").read_bytes() == b"results/a.png"
    # files are deleted by their age
    assert (data / "results/a.png").stat().st_mtime == 1_000_000_000
    assert all(path.stat().st_mode & 0o077 == 0 for path in (data, *data.rglob("*")))


def test_no_job_changes_its_state_while_the_last_files_are_collected(
    small: Settings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file comes, one goes and one is replaced after all files were linked for the first time."""
    locked: dict[str, bool] = {}
    link = backup._add_name

    def while_writing(path: Path, target: Path) -> None:
        with closing(sqlite3.connect(data / "cutout.db", timeout=0, isolation_level=None)) as writer:
            try:
                writer.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                locked[path.name] = True
            assert writer.execute("SELECT count(*) FROM users").fetchone() == (0,)  # readers go on
        link(path, target)
        if path.name == "b":
            LocalStorage(data).put("results/new", b"new")
            LocalStorage(data).put("results/a.png", b"replaced")
            path.unlink()

    monkeypatch.setattr(backup, "_add_name", while_writing)
    with tarfile.open(fileobj=io.BytesIO(saved(small))) as tar:
        replaced = tar.extractfile("results/a.png")
        assert replaced is not None
        assert replaced.read() == b"replaced"
        assert "results/new" in tar.getnames()
    assert locked == {"new": True, "a.png": True}
    with closing(sqlite3.connect(data / "cutout.db", timeout=0)) as writer:
        writer.execute("BEGIN IMMEDIATE")


def test_others_write_while_the_database_is_copied(
    small: Settings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = backup._copy_database

    def while_writing(source: sqlite3.Connection, target: Path) -> None:
        with closing(sqlite3.connect(data / "cutout.db", timeout=0)) as writer:
            writer.execute("CREATE TABLE later (x)")
        copy(source, target)

    monkeypatch.setattr(backup, "_copy_database", while_writing)
    archive = saved(small)
    shutil.rmtree(data)
    backup.restore(small, io.BytesIO(archive))
    with closing(sqlite3.connect(data / "cutout.db")) as restored:
        assert restored.execute("SELECT name FROM sqlite_master WHERE name = 'later'").fetchall() == []


def test_backups_may_overlap(small: Settings, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = backup._write_archive
    second: list[bytes] = []

    def while_another_is_made(*arguments: Any) -> None:
        monkeypatch.setattr(backup, "_write_archive", write)
        second.append(saved(small))
        write(*arguments)

    monkeypatch.setattr(backup, "_write_archive", while_another_is_made)
    first = saved(small)
    assert all(b"results/a.png" in archive for archive in (first, *second))
    assert not list(data.glob(".backup-*"))


def test_root_restores_nothing_that_the_service_could_not_read(
    small: Settings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = saved(small)
    shutil.rmtree(data)
    data.mkdir()
    if os.geteuid() == 0:
        os.chown(data, 10_001, 10_001)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(BackupError, match=r"belongs to the user \d+.* sudo -u"):
        backup.restore(small, io.BytesIO(archive))
    assert list(data.iterdir()) == []


def test_what_cannot_be_read_or_written_is_said(
    small: Settings, data: Path, run: Run, tmp_path: Path
) -> None:
    with Path("/dev/full").open("w") as full, pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.stdout", full)
        code, said = run("backup", "-")
    assert (code, "incomplete: stdout ended (No space left" in said) == (1, True)
    (data / "cutout.db").write_bytes(b"no database" * 1000)
    code, said = run("backup", str(tmp_path / "out.tar"))
    assert (code, "cannot be read or copied (file is not a database)" in said) == (1, True)
    shutil.rmtree(data)
    data.write_text("no folder")
    (tmp_path / "in.tar").touch()
    code, said = run("restore", str(tmp_path / "in.tar"))
    assert (code, "Check CUTOUT_DATA_DIR" in said) == (1, True)


def test_where_no_links_and_locks_are_possible_files_are_copied(
    small: Settings, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError("neither here")

    monkeypatch.setattr(os, "link", refused)
    monkeypatch.setattr(fcntl, "flock", refused)  # NFS locks no folders
    with tarfile.open(fileobj=io.BytesIO(saved(small))) as tar:
        assert {"results/a.png", "uploads/batch/b", "cutout.db", "secret"} < set(tar.getnames())


def test_what_a_killed_backup_has_left_is_removed_by_the_next(small: Settings, data: Path) -> None:
    (data / ".backup-dead").mkdir()
    os.link(data / "results/a.png", data / ".backup-dead/a.png")
    saved(small)
    assert not list(data.glob(".backup-*"))


def test_an_archive_is_not_restored_over_data(small: Settings, data: Path, tmp_path: Path, run: Run) -> None:
    archive, others = tmp_path / "backup.tar", tmp_path / "others"
    others.write_text("not a backup")
    (tmp_path / ".backup.tar.part").symlink_to(others)
    assert run("backup", str(archive))[0] == 0
    assert others.read_text() == "not a backup"
    code, said = run("backup", str(archive))
    assert (code, "exists already" in said) == (1, True)
    (data / "cutout.db").unlink()
    code, said = run("restore", str(archive))
    assert (code, "has data already" in said) == (1, True)
    # with the write-ahead log of another database, SQLite would show a mixture of both
    shutil.rmtree(data)
    data.mkdir()
    (data / "cutout.db-wal").touch()
    code, said = run("restore", str(archive))
    assert (code, "has data already: cutout.db-wal" in said) == (1, True)


def _cut(archive: bytes) -> bytes:
    return archive[: len(archive) // 2]


def _damaged_database(archive: bytes) -> bytes:
    return archive.replace(b"SQLite format 3", b"SQLite format X")


def _without_a_file(archive: bytes) -> bytes:
    return _rewritten(archive, lambda entry: entry.name != "results/a.png")


def _with_a_link(archive: bytes) -> bytes:
    def linked(entry: tarfile.TarInfo) -> bool:
        if entry.name == "results/a.png":
            entry.type, entry.linkname, entry.size = tarfile.SYMTYPE, "/etc/passwd", 0
        return True

    return _rewritten(archive, linked)


def _renamed(name: str) -> Callable[[bytes], bytes]:
    def moved(entry: tarfile.TarInfo) -> bool:
        if entry.name == "results/a.png":
            entry.name = name
        return True

    return lambda archive: _rewritten(archive, moved)


def _at_no_time(archive: bytes) -> bytes:
    def moved(entry: tarfile.TarInfo) -> bool:
        if entry.name == "results/a.png":
            entry.pax_headers = {"mtime": "1e300"}
        return True

    return _rewritten(archive, moved)


def _rewritten(archive: bytes, keep: Callable[[tarfile.TarInfo], bool]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old.getmembers():
            content = old.extractfile(entry)
            if keep(entry):
                new.addfile(entry, content if entry.isfile() else None)
    return out.getvalue()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(_cut, "damaged", id="cut"),
        pytest.param(_damaged_database, "database in the archive is damaged", id="damaged database"),
        pytest.param(_without_a_file, "3 of 4 files", id="file missing"),
        pytest.param(_with_a_link, "no file", id="link"),
        pytest.param(_at_no_time, "damaged", id="a time that there is not"),
        pytest.param(_renamed("../../a.png"), "no file of Cutout's", id="outside"),
        pytest.param(_renamed("results/../cutout.db-wal"), "no file of Cutout's", id="outside its folder"),
        pytest.param(_renamed("cutout.db-journal"), "no file of Cutout's", id="SQLite's own"),
        pytest.param(_renamed("results"), "no file of Cutout's", id="no folder"),
        pytest.param(_renamed("valkey/dump.rdb"), "no file of Cutout's", id="queue"),
        pytest.param(lambda archive: archive[10_240:], "none of Cutout's", id="no archive"),
    ],
)
def test_a_bad_archive_leaves_nothing_behind(
    change: Callable[[bytes], bytes], reason: str, small: Settings, data: Path
) -> None:
    archive = change(saved(small))
    shutil.rmtree(data)
    with pytest.raises(BackupError, match=reason):
        backup.restore(small, io.BytesIO(archive))
    assert list(data.iterdir()) == []
    assert not (data.parent / "a.png").exists()


@pytest.mark.parametrize("serves", [True, False])
def test_the_archive_of_a_newer_version_is_restored_if_it_serves_this_one(
    serves: bool, small: Settings, data: Path
) -> None:
    with closing(sqlite3.connect(data / "cutout.db", isolation_level=None)) as database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
        if not serves:
            database.execute("DELETE FROM schema_serves")
    archive = saved(small)
    shutil.rmtree(data)
    if serves:
        assert backup.restore(small, io.BytesIO(archive)).revision == "9999"
    else:
        with pytest.raises(migrate.SchemaMismatch, match="Install the newer version"):
            backup.restore(small, io.BytesIO(archive))
        assert list(data.iterdir()) == []


def test_a_database_elsewhere_is_none_of_these_commands(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user@127.0.0.1:1/cutout")
    monkeypatch.setenv("CUTOUT_SECRET", "s" * 48)
    for command in ("backup", "restore"):
        code, said = run(command, __file__ if command == "restore" else str(tmp_path / "out.tar"))
        assert code == 1
        assert "pg_dump" in said


def test_without_a_database_there_is_nothing_to_back_up(data: Path, run: Run, tmp_path: Path) -> None:
    code, said = run("backup", str(tmp_path / "out.tar"))
    assert (code, "CUTOUT_DATA_DIR" in said) == (1, True)
    assert not list(tmp_path.glob("*.tar*"))


def test_all_folders_of_files_are_backed_up_and_private() -> None:
    assert set(backup.FOLDERS) == set(OWN_FOLDERS) - {"probes", "valkey"}


def test_the_manifest_says_what_it_is(small: Settings) -> None:
    with tarfile.open(fileobj=io.BytesIO(saved(small))) as tar:
        first = tar.next()
        assert first is not None
        content = tar.extractfile(first)
        assert content is not None
        manifest = json.load(content)
    assert manifest["format"] == backup.FORMAT
    assert manifest["revision"] == migrate.head()
    assert manifest["files"] == 4
