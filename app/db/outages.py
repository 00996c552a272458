"""A circuit breaker for a database that does not answer, so that calls do not wait for it one after another."""

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.core.errors import ServiceError

log = structlog.get_logger()

# Wait this long between two attempts to find out whether a hanging database answers again.
PAUSE_SECONDS = 1.0


class DatabaseUnavailableError(ServiceError):
    """The database did not do what a request needed."""

    code, status = "DATABASE_UNAVAILABLE", 503
    example = "The database does not answer. Nothing was charged; try again in a moment."
    retry_after = 10


class DatabaseUnavailable(OperationalError):
    """The database was not called, or did not answer in time; `orig` holds the reason."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(None, None, reason)


class Hangs(Exception):
    """The database did not answer an earlier call in time."""

    def __init__(self) -> None:
        super().__init__("the database hangs; it will be tried again in a moment")


class DatabaseBreaker:
    """Circuit breaker: lets all calls through until one times out. From then on one thread at a time tests whether the
    database answers again, and all other calls fail at once. Thread-safe.
    """

    def __init__(self, pause: float = PAUSE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._pause = pause
        self._clock = clock
        self._lock = threading.Lock()
        self._is_open = False
        self._trying: int | None = None
        self._try_again = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the database is considered to be hanging."""
        return self._is_open

    def admit(self) -> None:
        """Return if this thread may call the database.

        Raises:
            DatabaseUnavailable: the database hangs, and it is not this thread's turn to test whether it still does.

        """
        if not self.is_open:
            return
        with self._lock:
            if not self._is_open or self._trying == threading.get_ident():
                return
            if self._trying is not None or self._clock() < self._try_again:
                raise DatabaseUnavailable(Hangs())
            self._trying = threading.get_ident()

    def may_connect(self) -> bool:
        """Return whether this thread may open a connection now."""
        with self._lock:
            return not self._is_open or self._trying == threading.get_ident()

    def hangs(self) -> None:
        """Record that the database did not answer in time."""
        with self._lock:
            if not self._is_open:
                log.error("database hangs", detail="calls that need it are refused until it answers again")
            self._is_open, self._trying = True, None
            self._try_again = self._clock() + self._pause

    def leave(self) -> None:
        """End this thread's turn. If the database has not answered by then, another thread may try after the pause."""
        if not self._is_open:
            return
        with self._lock:
            if self._trying == threading.get_ident():
                self._trying = None
                self._try_again = self._clock() + self._pause

    def answers(self) -> None:
        """Record that the database answered."""
        if not self._is_open:
            return
        with self._lock:
            self._is_open, self._trying = False, None
        log.info("database answers again")
