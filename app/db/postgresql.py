"""PostgreSQL connections on which every wait has a timeout.

The server's own limits (`statement_timeout`, `lock_timeout`) do nothing if the server itself hangs or its host is gone.
So every wait for an answer has a timeout on this side too: the connection is then closed, and the statement counts as
not done unless the server says otherwise later.
"""

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, TypeVar

import psycopg
from psycopg.errors import ConnectionTimeout

from cutout.app.db.outages import DatabaseBreaker, Hangs

Answer = TypeVar("Answer")

# Let the server's own limit expire first while the server is alive: it frees the locks and keeps the connection usable.
LATER_SECONDS = 1.0
# A host that leaves a transaction open and idle for this long has died or hangs.
IDLE_IN_TRANSACTION_SECONDS = 60


class NoAnswer(psycopg.OperationalError):
    """The server did not answer in time."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection on which each wait lasts at most `seconds`; None disables the limit."""

    seconds: float | None = None
    breaker: DatabaseBreaker | None = None

    def wait(self, gen: Generator[Any, Any, Answer], *args: Any, **kwargs: Any) -> Answer:
        if self.seconds is None:
            return super().wait(gen, *args, **kwargs)
        try:
            answer = super().wait(_until(gen, time.monotonic() + self.seconds, self.seconds), *args, **kwargs)
        except NoAnswer:
            # Close the connection: a late answer will not be read, so the connection's state is unknown.
            self.close()
            if self.breaker is not None:
                self.breaker.hangs()
            raise
        if self.breaker is not None:
            self.breaker.answers()
        return answer


def _until(gen: Generator[Any, Any, Answer], deadline: float, seconds: float) -> Generator[Any, Any, Answer]:
    """Forward the driver's wait generator; raise `NoAnswer` when the deadline passes and nothing is ready."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            # Read data that has arrived before checking the deadline: this process itself may have been suspended.
            if not ready and time.monotonic() > deadline:
                raise NoAnswer(f"the database has not answered in {seconds:g} s (CUTOUT_DATABASE_SECONDS)")
            wanted = gen.send(ready)
    except StopIteration as end:
        answer: Answer = end.value
        return answer


def connect_args(query: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Return the arguments for a new connection; options given in the URL (`query`) are left unchanged."""
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
    # A proxy such as PgBouncer accepts no options: "?options=%20" leaves them out. SQLAlchemy drops an
    # empty value.
    if str(query.get("options", "limits")).strip() == "":
        args["options"] = ""
    return args


def connector(seconds: float, breaker: DatabaseBreaker) -> Callable[..., BoundedConnection]:
    """Return SQLAlchemy's handler for `do_connect`, which opens a connection."""

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
