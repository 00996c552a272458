"""One database, PostgreSQL or SQLite: its engine, its transactions and its timeouts."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import ConnectionPoolEntry

from cutout.app.core.atomic_write import say_full
from cutout.app.db.committed import Committed
from cutout.app.db.outages import DatabaseBreaker, DatabaseUnavailable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Timeout for an answer where no setting says otherwise.
DATABASE_SECONDS = 10.0
# How long a writer on SQLite waits for another writer's transaction; all transactions are short.
LOCK_SECONDS = 30
# With this option PostgreSQL refuses writes; on SQLite the transaction begins without taking the write lock.
READ_ONLY = "postgresql_readonly"


_this_thread = threading.local()


def transactions_open() -> int:
    """Return how many transactions this thread has open, over all databases. While one is open, the thread must not
    wait for anything else, such as a queue, the storage or the network.
    """
    return getattr(_this_thread, "open", 0)


class NestedTransaction(RuntimeError):
    """A thread opened a transaction inside another one. It would hold two connections, which can lead to a deadlock."""


class Database:
    """Opens transactions. Thread-safe; each session belongs to one thread.

    If the database does not answer, each call raises `OperationalError` (or its subclass `DatabaseUnavailable`) within
    a bounded time.
    """

    def __init__(self, url: str, seconds: float = DATABASE_SECONDS) -> None:
        """Prepare to connect to `url`, such as "postgresql://…" or "sqlite:///var/cutout.db"; nothing is opened yet.

        Args:
            url: the database's URL.
            seconds: PostgreSQL only: the timeout for a statement, a new connection, and a free one from the pool.

        """
        self.breaker = DatabaseBreaker()
        self.engine = _create_engine(url, seconds, self.breaker)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        self.committed = Committed(self._sessions)
        self._readers = sessionmaker(
            self.engine.execution_options(**{READ_ONLY: True}), expire_on_commit=False
        )
        self._thread = threading.local()

    def begin(self) -> AbstractContextManager[Session]:
        """Open a transaction that is committed at the end of the block and rolled back if the block raises.

        On SQLite the transaction holds the write lock from its start, so what it reads does not change before the
        commit.

        Raises:
            OperationalError: the database does not answer, or not in time.
            NestedTransaction: this thread already has a transaction open.

        """
        return self._transaction(self._sessions)

    def read(self) -> AbstractContextManager[Session]:
        """Open a read-only transaction on a snapshot of the database; it neither waits for writers nor blocks them.

        Raises:
            OperationalError: the database does not answer, or not in time.
            NestedTransaction: this thread already has a transaction open.

        """
        return self._transaction(self._readers)

    @contextmanager
    def without_limits(self) -> Iterator[Connection]:
        """Open a transaction without timeouts, for migrations."""
        with self.engine.connect() as connection:
            driver = connection.connection.dbapi_connection
            is_bounded = hasattr(driver, "seconds")
            seconds, limits = getattr(driver, "seconds", None), ("statement_timeout", "lock_timeout")
            try:
                with connection.begin():
                    if is_bounded:
                        driver.seconds = None  # type: ignore[union-attr]
                        for limit in (*limits, "idle_in_transaction_session_timeout"):
                            connection.exec_driver_sql(f"SET LOCAL {limit} = 0")
                    yield connection
            finally:
                if is_bounded:
                    driver.seconds = seconds  # type: ignore[union-attr]

    def run_in_transaction(
        self,
        work: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call `work` in its own transaction, which is committed before this returns."""
        with self.begin() as session:
            return work(session, *args, **kwargs)

    def run_read_only(
        self,
        question: Callable[Concatenate[Session, Arguments], Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Return the result of `question`, called in its own read-only transaction."""
        with self.read() as session:
            return question(session, *args, **kwargs)

    def explain(self, error: OperationalError) -> str:
        """Return a message, safe to show to any client, on why the database failed and what to do."""
        return self.explain_disk(error) or (
            "The database does not answer. Try again in a moment; unfinished work is not charged."
        )

    def explain_disk(self, error: OperationalError) -> str | None:
        """Return what to do about the database's disk if it is full or fails; None for any other error."""
        orig, url = error.orig, self.engine.url
        name = getattr(orig, "sqlite_errorname", "")
        if name == "SQLITE_FULL":
            return say_full(url.database or "", "CUTOUT_DATA_DIR")
        if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY")):
            return (
                f"The database {url.database} cannot be read or written ({orig}). Check its disk, or"
                " CUTOUT_DATA_DIR."
            )
        if getattr(orig, "sqlstate", None) == "53100":
            return "The disk of the database server is full. Free some space there."
        return None

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    @contextmanager
    def _transaction(self, sessions: sessionmaker[Session]) -> Iterator[Session]:
        if getattr(self._thread, "is_open", False):
            raise NestedTransaction(
                "This thread already has an open transaction: end it first, or pass its session on. Two transactions"
                " in one thread use two connections, so as many threads as there are connections could deadlock."
            )
        self.breaker.admit()
        self._thread.is_open, _this_thread.open = True, transactions_open() + 1
        try:
            with sessions.begin() as session:
                yield session
        except (PoolTimeout, InterfaceError) as error:
            raise DatabaseUnavailable(error) from error
        finally:
            self._thread.is_open, _this_thread.open = False, transactions_open() - 1
            self.breaker.leave()


def _create_engine(url: str, seconds: float, breaker: DatabaseBreaker) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": LOCK_SECONDS}, hide_parameters=True)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg")
    from cutout.app.db import postgresql  # an embedded service never needs it

    engine = create_engine(
        parsed,
        # Detect a connection that died with its server before it is used, so that no request fails on it.
        pool_pre_ping=True,
        pool_timeout=seconds,
        hide_parameters=True,
        connect_args=postgresql.connect_args(parsed.query, seconds),
    )
    event.listen(engine, "do_connect", postgresql.connector(seconds, breaker))
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
    # The driver's own transactions start as readers, and fail as soon as another connection writes.
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    only_reads = connection.get_execution_options().get(READ_ONLY)
    connection.exec_driver_sql("BEGIN" if only_reads else "BEGIN IMMEDIATE")
