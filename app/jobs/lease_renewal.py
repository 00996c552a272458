"""Leases of the jobs that this process works on while their callers wait.

Each job has a lease of some seconds, which is renewed while the process lives, so that after a crash nobody waits
longer for the job. A job that failed while the database was not reachable is ended as soon as the database responds.
"""

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import structlog
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import completion

log = structlog.get_logger()

# How often a lease is renewed before it would expire, and the pause after a failed renewal.
RENEWALS_PER_LEASE = 3
TRY_AGAIN_SECONDS = 1.0
# How long `renewing` waits at its end for a renewal in progress.
STOP_SECONDS = 5.0


class LeaseRenewer:
    """Keeps the jobs whose leases have to be renewed, and the failed jobs that have to be ended. Thread-safe."""

    def __init__(self) -> None:
        self.wanted = threading.Event()
        self._lock = threading.Lock()
        self._held: set[uuid.UUID] = set()
        self._to_end: dict[uuid.UUID, tuple[str, str]] = {}

    @contextmanager
    def holding(self, job_id: uuid.UUID) -> Iterator[None]:
        """Keep renewing a job's lease for as long as the block runs."""
        with self._lock:
            self._held.add(job_id)
        try:
            yield
        finally:
            with self._lock:
                self._held.discard(job_id)

    def held(self) -> list[uuid.UUID]:
        """Return the ids of the jobs that this process is working on."""
        with self._lock:
            return list(self._held)

    def end_later(self, job_id: uuid.UUID, code: str, detail: str) -> None:
        """End a failed job once the database responds again. If the process exits first, the job's lease expires."""
        with self._lock:
            self._to_end[job_id] = code, detail
        self.wanted.set()

    def renew(self, database: Database, lease: timedelta, at: datetime | None = None) -> None:
        """Renew the leases of all held jobs, by the database's clock or from `at`, and end the failed jobs.

        Raises:
            OperationalError: the database does not respond; the next call does what is left.

        """
        held = self.held()
        if held:
            mine = update(Job).where(Job.id.in_(held), Job.status == Status.PROCESSING, Job.options.is_(None))
            with database.begin() as session:
                session.execute(mine.values(lease_until=(at or shared_now(session)) + lease))
        with self._lock:
            to_end = dict(self._to_end)
        for job_id, (code, detail) in to_end.items():
            if database.run_in_transaction(completion.fail, job_id, code, detail):
                log.info("job ended after an outage", job=str(job_id), code=code)
            with self._lock:
                del self._to_end[job_id]


@contextmanager
def renewing(leases: LeaseRenewer, database: Database, lease: timedelta) -> Iterator[None]:
    """Renew leases until the end of the block, on a separate thread that no other work can delay."""
    over = threading.Event()
    again = min(TRY_AGAIN_SECONDS, lease.total_seconds() / (2 * RENEWALS_PER_LEASE))

    def run() -> None:
        wait, fails = 0.0, False
        while not over.is_set():
            leases.wanted.wait(wait)
            leases.wanted.clear()
            try:
                leases.renew(database, lease)
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
