"""Whether pictures can be made and kept here: what database, queue and storage say, asked beside the calls."""

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

# How long `/api/health` waits for an answer; and without being asked, how often database and queue are looked at.
PATIENCE_SECONDS = 1.5
LOOK_EVERY = timedelta(seconds=10)
# After so long without an answer a database or a queue counts as hanging.
HANGING = timedelta(seconds=3)
# For how long photos wait without a worker before the log says so, and how often it repeats that.
UNATTENDED_SECONDS, REPEAT_SECONDS = 30.0, 300.0
CANNOT_KEEP = "Results cannot be kept. The log says why."


@dataclass(frozen=True)
class Fault:
    """Something that keeps pictures from being made, or photos of batches from being taken: a code, and what to do."""

    code: str
    detail: str


@dataclass(frozen=True)
class Findings:
    """What was found. `revision` is None while the database does not answer; `waiting` and `workers` are None where that
    is not known. `faults` are of single photos here, `of_batches` of what workers do.
    """

    revision: str | None
    waiting: Waiting | None
    workers: Sequence[WorkerInfo] | None
    faults: Sequence[Fault]
    of_batches: Sequence[Fault]


class Readiness:
    """Looks after database, queue and storage for as long as the service runs."""

    def __init__(
        self,
        database: Database,
        queue_stats: QueueStats,
        storage: StorageProbe,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue_stats = queue_stats
        self._database = database
        self._clock = clock
        self._unattended_since: float | None = None
        self._repeat_at = 0.0
        self.database = Probe("database", self._look_at_database, LOOK_EVERY, HANGING)
        self.queue = Probe("queue", self._look_at_queue, LOOK_EVERY, HANGING)
        self.storage = storage

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Look until the end of the block."""
        probes = (self.database, self.storage, *((self.queue,) if self._queue_stats.is_kept else ()))
        for probe in probes:
            probe.start()
        try:
            yield
        finally:
            await asyncio.gather(*(asyncio.to_thread(probe.stop) for probe in probes))

    async def look(self) -> Findings:
        """Tell how all is now, within two seconds."""
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
        """Say in the log that photos wait and nobody takes them, where that lasts."""
        try:
            workers = self.queue.last()
        except NoAnswer:
            workers = None
        if waiting is None or waiting.photos == 0 or workers:
            self._unattended_since = None
            return
        at = self._clock()
        if self._unattended_since is None:
            self._unattended_since = self._repeat_at = at + UNATTENDED_SECONDS
        if at >= self._repeat_at:
            self._repeat_at = at + REPEAT_SECONDS
            log.error("no worker alive", detail=say_unattended(waiting.photos), waiting=waiting.photos)


def say_unattended(photos: int) -> str:
    """Say that photos wait for nobody."""
    return f"{photos} photos of batches wait and no worker is alive. Start one with: cutout worker"
