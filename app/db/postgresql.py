"""Connections to PostgreSQL on which nothing is waited for without end.

The server's own limits end what takes too long there; they do nothing where the server itself hangs, or its host is
gone. So each wait for its answers ends on this side too: the connection is closed then, and what it was asked for counts
as not done unless the server says otherwise later.
"""

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.errors import ConnectionTimeout

from cutout.app.db.outages import Breaker, Hangs

Answer = TypeVar("Answer")

# The server's own limit comes first where it is alive: it frees the locks, and the connection stays usable.
LATER_SECONDS = 1.0
# A host that holds a transaction open and does nothing in it has died, or hangs.
IDLE_IN_TRANSACTION_SECONDS = 60


class NoAnswer(psycopg.OperationalError):
    """The server has not answered in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose waits end. `seconds` is how long each lasts at most; None: as long as it takes."""

    seconds: float | None = None
    breaker: Breaker | None = None

    def wait(self, gen: Generator[Any, Any, Answer], *args: Any, **kwargs: Any) -> Answer:
        if self.seconds is None:
            return super().wait(gen, *args, **kwargs)
        try:
            answer = super().wait(_until(gen, time.monotonic() + self.seconds, self.seconds), *args, **kwargs)
        except NoAnswer:
            # Whatever comes after all is not waited for: the connection's state is not known any more.
            self.close()
            if self.breaker is not None:
                self.breaker.hangs()
            raise
        if self.breaker is not None:
            self.breaker.answers()
        return answer


def _until(gen: Generator[Any, Any, Answer], deadline: float, seconds: float) -> Generator[Any, Any, Answer]:
    """Pass on what a driver's exchange waits for, until it is over or the deadline has passed without any news."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            # News that has come is read first: it may have been this process that was stopped for a while.
            if not ready and time.monotonic() > deadline:
                raise NoAnswer(f"the database has not answered in {seconds:g} s (CUTOUT_DATABASE_SECONDS)")
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def connect_args(query: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return what a connection is opened with; what the address itself says (`query`) stays as it is."""
    milliseconds = round(1000 * seconds)
    limits = {
        "statement_timeout": milliseconds,
        "lock_timeout": milliseconds,
        "idle_in_transaction_session_timeout": 1000 * IDLE_IN_TRANSACTION_SECONDS,
    }
    wanted = {
        "connect_timeout": max(2, round(seconds)),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": milliseconds,
        "options": " ".join(f"-c {name}={value}" for name, value in limits.items()),
    }
    args = {name: value for name, value in wanted.items() if name not in query}
    # A proxy such as PgBouncer takes no options: "?options=%20" leaves them out; without the blank it would be no option.
    if str(query.get("options", "limits")).strip() == "":
        args["options"] = ""
    return args


def connector(seconds: float, breaker: Breaker) -> Callable[..., BoundedConnection]:
    """Return how SQLAlchemy opens a connection (its event `do_connect`)."""

    def connect(_dialect: Any, _record: Any, args: list[Any], kwargs: dict[str, Any]) -> BoundedConnection:
        if not breaker.may_connect():
            raise psycopg.OperationalError(str(Hangs()))
        try:
            connection = BoundedConnection.connect(*args, **kwargs)
        except ConnectionTimeout:
            breaker.hangs()
            raise
        connection.seconds, connection.breaker = seconds + LATER_SECONDS, breaker
        return connection

    return connect
