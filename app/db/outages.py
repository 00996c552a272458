"""A database that does not answer: how calls are kept from waiting for it one after the other."""

import threading
import time
from collections.abc import Callable

import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.core.errors import ServiceError

log = structlog.get_logger()

# Between two attempts to find out whether a database that hung answers again.
PAUSE_SECONDS = 1.0


class DatabaseUnavailableError(ServiceError):
    """The database did not do what a request needed."""

    code, status = "DATABASE_UNAVAILABLE", 503
    example = "The database does not answer. Nothing was charged; try again in a moment."
    retry_after = 10


class DatabaseUnavailable(OperationalError):
    """The database was not asked, or its answer not waited for any longer; `orig` says why."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(None, None, reason)


class Hangs(Exception):
    """The database has not answered another call in time."""

    def __init__(self) -> None:
        super().__init__("the database hangs; it is asked again in a moment")


class Breaker:
    """Lets every call through to a database until one was not answered in time; then one at a time finds out whether
    it answers again, and the others fail at once. Safe to use from any number of threads.
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
        """Whether the database counts as hanging."""
        return self._is_open

    def admit(self) -> None:
        """Return if the database may be asked by this thread.

        Raises:
            DatabaseUnavailable: it hangs, and it is not this thread's turn to find out whether it still does.

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
        """Tell whether this thread may open a connection now."""
        with self._lock:
            return not self._is_open or self._trying == threading.get_ident()

    def hangs(self) -> None:
        """Say that the database has not answered in time."""
        with self._lock:
            if not self._is_open:
                log.error("database hangs", detail="calls that need it are refused until it answers again")
            self._is_open, self._trying = True, None
            self._try_again = self._clock() + self._pause

    def leave(self) -> None:
        """End this thread's turn. Where it has not found out that the database answers, another's comes in a moment."""
        if not self._is_open:
            return
        with self._lock:
            if self._trying == threading.get_ident():
                self._trying = None
                self._try_again = self._clock() + self._pause

    def answers(self) -> None:
        """Say that the database has answered."""
        if not self._is_open:
            return
        with self._lock:
            self._is_open, self._trying = False, None
        log.info("database answers again")
