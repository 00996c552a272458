"""The jobs that this process works on for callers who wait.

Each has a lease of some seconds, renewed while the process lives: after a crash nobody waits longer for it than that. A
job that came to nothing while the database was away is ended as soon as it answers again.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, now
from cutout.app.jobs import completion

log = structlog.get_logger()

# Of a lease, how often it is renewed; and how soon again where that failed.
RENEWALS_PER_LEASE = 3
TRY_AGAIN_SECONDS = 1.0
# How long the end of the process waits for what is being renewed.
STOP_SECONDS = 5.0


class LeaseRenewer:
    """What is held now, and what is to be ended. Safe to use from any number of threads."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self._lock = threading.Lock()
        self._held: set[uuid.UUID] = set()
        self._to_end: dict[uuid.UUID, tuple[str, str]] = {}

    @contextmanager
    def holding(self, job_id: uuid.UUID) -> Iterator[None]:
        """Have a job in work for as long as the block lasts."""
        with self._lock:
            self._held.add(job_id)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(job_id)

    def held(self) -> list[uuid.UUID]:
        """Return the jobs that this process has in work."""
        with self._lock:
            return list(self._held)

    def end_later(self, job_id: uuid.UUID, code: str, detail: str) -> None:
        """Have a failed job ended when the database answers again. Lost with the process; then its lease ends it."""
        with self._lock:
            self._to_end[job_id] = code, detail
        self.wanted.set()

    def renew(self, database: Database, lease: timedelta, at: datetime) -> None:
        """Renew what is held, and end what is to be ended.

        Raises:
            OperationalError: the database is away; what is not done is done the next time.

        """
        held = self.held()
        if held:
            mine = update(Job).where(Job.id.in_(held), Job.status == Status.PROCESSING, Job.options.is_(None))
            with database.begin() as session:
                session.execute(mine.values(lease_until=at + lease))
        with self._lock:
            to_end = dict(self._to_end)
        for job_id, (code, detail) in to_end.items():
            if database.run_in_transaction(completion.fail, job_id, code, detail):
                log.info("given back", job=str(job_id), code=code)
            with self._lock:
                del self._to_end[job_id]


@contextmanager
def renewing(
    leases: LeaseRenewer, database: Database, lease: timedelta, clock: Callable[[], datetime] = now
) -> Iterator[None]:
    """Until the end of the block, renew leases on a thread of its own: work on all others keeps none waiting."""
    over = threading.Event()
    again = min(TRY_AGAIN_SECONDS, lease.total_seconds() / (2 * RENEWALS_PER_LEASE))

    def run() -> None:
        wait, fails = 0.0, False
        while not over.is_set():
            leases.wanted.wait(wait)
            leases.wanted.clear()
            try:
                leases.renew(database, lease, clock())
                wait, fails = lease.total_seconds() / RENEWALS_PER_LEASE, False
            except Exception as error:
                wait = again
                if not fails:
                    detail = str(error.orig) if isinstance(error, OperationalError) else None
                    log.warning("leases not renewed", detail=detail, exc_info=detail is None)
                fails = True

    thread = threading.Thread(target=run, name="leases", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        leases.wanted.set()
        thread.join(STOP_SECONDS)
