"""Readiness of the service: database, queue and storage, checked by background probes."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import structlog
from sqlalchemy.exc import SQLAlchemyError

from cutout.app.core.probe import NoAnswer, Probe
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.jobs.queue import WorkerInfo
from cutout.app.jobs.queue_stats import QueueStats, Waiting
from cutout.app.storage.base import StorageError
from cutout.app.storage.probe import STORAGE_HANGS, StorageProbe

log = structlog.get_logger()

# How long `/api/health` waits for an answer, and how often database and queue are checked without a request.
PATIENCE_SECONDS = 1.5
LOOK_EVERY = timedelta(seconds=10)
# A database or queue that has not answered for this long counts as hanging.
HANGING = timedelta(seconds=3)
# How long photos may wait without a worker before an error is logged, and how often it is repeated.
UNATTENDED_SECONDS, REPEAT_SECONDS = 30.0, 300.0
CANNOT_KEEP = "Results cannot be stored. The log says why."


@dataclass(frozen=True)
class Fault:
    """A problem that prevents removals, or the processing of batches: an error code, and a message with the fix."""

    code: str
    detail: str


@dataclass(frozen=True)
class Findings:
    """Result of the checks. `revision` is None while the database does not answer; `waiting` and `workers` are None if
    unknown. `faults` affect the service itself, `of_batches` only the processing by workers.
    """

    revision: str | None
    waiting: Waiting | None
    workers: Sequence[WorkerInfo] | None
    faults: Sequence[Fault]
    of_batches: Sequence[Fault]


class Readiness:
    """Monitors database, queue and storage while the service runs."""

    def __init__(
        self,
        database: Database,
        queue_stats: QueueStats,
        storage: StorageProbe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_stats = queue_stats
        self._database = database
        self.clock = clock
        self._unattended_since: float | None = None
        self._repeat_at = 0.0
        self.database = Probe("database", self._look_at_database, LOOK_EVERY, HANGING)
        self.queue = Probe("queue", self._look_at_queue, LOOK_EVERY, HANGING)
        self.storage = storage

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Run the probes within the block."""
        probes = (self.database, self.storage, *((self.queue,) if self._queue_stats.is_kept else ()))
        for probe in probes:
            probe.start()
        try:
            yield
        finally:
            await asyncio.gather(*(asyncio.to_thread(probe.stop) for probe in probes))

    async def look(self) -> Findings:
        """Return the current state of all dependencies, within two seconds."""
        (revision, waiting), workers = await asyncio.gather(self._of_database(), self._of_queue())
        faults, of_batches = [], []
        if revision is None:
            faults.append(Fault("DATABASE_UNAVAILABLE", "The database does not answer. The log says why."))
        if (fault := self._of_storage()) is not None:
            faults.append(fault)
        if self._queue_stats.is_kept and workers is None:
            of_batches.append(Fault("QUEUE_UNAVAILABLE", "The queue does not answer. Check REDIS_URL."))
        elif waiting is not None and waiting.photos and not workers:
            of_batches.append(Fault("NO_WORKER", say_unattended(waiting.photos)))
        return Findings(revision, waiting, workers, faults, of_batches)

    @property
    def database_answers(self) -> bool:
        """Return whether the database answered the last check."""
        try:
            return self.database.last() is not None
        except (NoAnswer, SQLAlchemyError):
            return False

    @property
    def storage_answers(self) -> bool:
        """Return whether results could be stored at the last check."""
        return self._of_storage() is None

    async def _of_database(self) -> tuple[str | None, Waiting | None]:
        try:
            return await self.database.fresh(PATIENCE_SECONDS)
        except (NoAnswer, SQLAlchemyError):
            return None, None

    async def _of_queue(self) -> Sequence[WorkerInfo] | None:
        if not self._queue_stats.is_kept:
            return None
        try:
            return await self.queue.fresh(PATIENCE_SECONDS)
        except NoAnswer:
            return None

    def _of_storage(self) -> Fault | None:
        try:
            self.storage.last()
        except NoAnswer:
            return Fault("STORAGE_UNAVAILABLE", STORAGE_HANGS)
        except Exception as error:  # noqa: BLE001 - the log has it; strangers hear no more than the caller of a removal
            told = error.__cause__
            detail = str(told) if isinstance(told, StorageError) else CANNOT_KEEP
            return Fault("STORAGE_UNAVAILABLE", detail)
        return None

    def _look_at_database(self) -> tuple[str | None, Waiting | None]:
        revision = migrate.revision(self._database)
        waiting = self._queue_stats.waiting() if self._queue_stats.is_kept else None
        self._warn_of_unattended(waiting)
        return revision, waiting

    def _look_at_queue(self) -> Sequence[WorkerInfo] | None:
        return self._queue_stats.workers()

    def _warn_of_unattended(self, waiting: Waiting | None) -> None:
        """Log an error if photos have been waiting without a worker for `UNATTENDED_SECONDS`."""
        try:
            workers = self.queue.last()
        except NoAnswer:
            workers = None
        if waiting is None or waiting.photos == 0 or workers:
            self._unattended_since = None
            return
        at = self.clock()
        if self._unattended_since is None:
            self._unattended_since = self._repeat_at = at + UNATTENDED_SECONDS
        if at >= self._repeat_at:
            self._repeat_at = at + REPEAT_SECONDS
            log.error("no worker alive", detail=say_unattended(waiting.photos), waiting=waiting.photos)


def say_unattended(photos: int) -> str:
    """Return the message that photos are waiting and no worker is alive."""
    return f"{photos} photos of batches are waiting, but no worker is alive. Start one with: cutout worker"
