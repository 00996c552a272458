"""One database, PostgreSQL or SQLite: how it is opened, and when what is done in it counts."""

import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# How long a writer waits for another one's transaction, which are all short.
LOCK_SECONDS = 30
# PostgreSQL refuses to write then; on SQLite the transaction takes no lock at its start.
READ_ONLY = "postgresql_readonly"


class Database:
    """Opens transactions. Safe to use from any number of threads; a session belongs to one."""

    def __init__(self, url: str) -> None:
        """Prepare to connect to `url`, as in "postgresql://…" or "sqlite:///var/cutout.db"; nothing is opened yet."""
        self.engine = _create_engine(url)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self._readers = sessionmaker(
            self.engine.execution_options(**{READ_ONLY: True}), expire_on_commit=False
        )

    def begin(self) -> AbstractContextManager[Session]:
        """Open a transaction: committed at the end of the block, rolled back where an exception leaves it.

        On SQLite it holds the only writer's lock from its start, so that what was read is still so at the commit.
        """
        return self._sessions.begin()

    def read(self) -> AbstractContextManager[Session]:
        """Open a transaction that only reads: one moment of the database, that waits for no writer and keeps none waiting."""
        return self._readers.begin()

    def run(
        self,
        work: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Do `work` in a transaction of its own, which is committed when this returns."""
        with self.begin() as session:
            return work(session, *args, **kwargs)

    def ask(
        self,
        question: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Answer `question` in a transaction of its own that only reads."""
        with self.read() as session:
            return question(session, *args, **kwargs)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def _create_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": LOCK_SECONDS}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    # A connection that died with its server is noticed before it is used, not by the request that got it.
    return create_engine(parsed, pool_pre_ping=True, hide_parameters=True)


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # The driver's own transactions start as readers and fail as soon as another one writes.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    only_reads = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
