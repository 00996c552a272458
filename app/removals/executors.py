"""How the pictures of callers who wait are made: by the engine in this process, or by workers behind the queue."""

import asyncio
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import Context
from datetime import timedelta
from typing import Any, Protocol

import structlog
from sqlalchemy import select

from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.model_status import Served, served_by
from cutout.app.jobs.queue import Queue, QueueUnavailable, WorkerInfo
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import DeadlineExceeded, DeviceLost, ModelUnavailable, Overloaded
from cutout.inference.masked_photo import MaskedPhoto, Source, View
from cutout.inference.options import Options
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from cutout.inference.tiers import Tier

log = structlog.get_logger()

# How often the database is asked what has ended, by one question for all who wait.
ASK_EVERY_SECONDS = 0.03
# While it does not answer.
ASK_AGAIN_SECONDS = 1.0
# How long the workers' own word on what serves there is taken.
TOLD_SECONDS = 2.0


class RemovalExecutor(Protocol):
    """Makes the pictures of callers who wait. It knows neither prices nor the ledger."""

    here: bool
    """Whether this process makes the pictures; else a photo is stored for a worker before its job is written."""
    backend: str
    """The backend that metrics name for a removal that failed."""

    def serving(self) -> tuple[str, Mapping[Tier, Served]]:
        """Return the kind of device that runs the networks, and what serves each tier. It may ask the queue.

        Raises:
            ModelUnavailable, QueueUnavailable: no picture can be made now.

        """

    def serving_by(self, workers: Sequence[WorkerInfo] | None) -> tuple[str, Mapping[Tier, Served]]:
        """Return the same without a call to the queue, from its `workers`; None where the queue does not answer.

        Raises:
            ModelUnavailable, QueueUnavailable: no picture can be made now.

        """

    def breaker(self) -> CircuitBreaker | None:
        """Return the circuit breaker of a remote service; None where this process runs the networks or workers do."""
        return None

    def enqueue(self, job_id: uuid.UUID, photo: Source, options: Options) -> dict[str, Any]:
        """Check that a photo would be accepted now, and store it where a worker finds it. Return columns of its job's row.

        Raises:
            StorageError: the photo cannot be stored.
            Overloaded: too many photos are waiting.
            ModelUnavailable, QueueUnavailable: no picture can be made now.

        """

    def withdraw(self, job_id: uuid.UUID) -> None:
        """Delete what `enqueue` stored."""

    async def make(
        self, job_id: uuid.UUID, photo: Source, options: Options, user_id: uuid.UUID
    ) -> Cutout | None:
        """Make a picture. Return it; or None once a worker has ended the job, and stored the picture if it succeeded.

        Raises:
            CutoutError: the photo cannot be read, or was not done in time.

        """

    def carry(self, job_id: uuid.UUID, trace: str) -> None:
        """Tell whoever makes the picture the trace of its request."""
        return

    async def show(
        self, photo: MaskedPhoto, options: Options, most_pixels: int, user_id: uuid.UUID
    ) -> Cutout | None:
        """Make a picture of at most so many pixels, to look at. Return None where workers make pictures.

        Raises:
            CutoutError: the picture cannot be made, or was not in time.

        """
        return None

    async def close(self) -> None:
        """Finish, and accept no more photos."""


class LocalExecutor(RemovalExecutor):
    """The engine in this process."""

    here = True

    def __init__(self, engine: Engine, *, keep_photos: bool = False) -> None:
        """With `keep_photos`, cut-outs have their photo and its masks, so that they can be refined."""
        self.engine = engine
        self._keep_photos = keep_photos
        self.backend = next(iter(engine.serving.values())).runner.backend

    def serving(self) -> tuple[str, Mapping[Tier, Served]]:
        if self.engine.lost is not None:
            raise DeviceLost(str(self.engine.lost))
        return self.engine.where, served_by(self.engine)

    def serving_by(self, workers: Sequence[WorkerInfo] | None) -> tuple[str, Mapping[Tier, Served]]:
        return self.serving()

    def breaker(self) -> CircuitBreaker | None:
        return self.engine.breaker

    def enqueue(self, job_id: uuid.UUID, photo: Source, options: Options) -> dict[str, Any]:
        self.engine.require_capacity()
        return {}

    def withdraw(self, job_id: uuid.UUID) -> None:
        pass

    async def make(
        self, job_id: uuid.UUID, photo: Source, options: Options, user_id: uuid.UUID
    ) -> Cutout | None:
        made = self.engine.submit(photo, options, caller=user_id, keep_masks=self._keep_photos)
        return await asyncio.wrap_future(made)

    async def show(
        self, photo: MaskedPhoto, options: Options, most_pixels: int, user_id: uuid.UUID
    ) -> Cutout | None:
        shown = self.engine.submit(View(photo, most_pixels), options, caller=user_id)
        return await asyncio.wrap_future(shown)

    async def close(self) -> None:
        await asyncio.to_thread(self.engine.close)


class QueueExecutor(RemovalExecutor):
    """The workers behind the queue. A photo waits for one in storage, its job in the database.

    Meant for one event loop.
    """

    here, backend = False, "queue"

    def __init__(
        self, queue: Queue, storage: Storage, database: Database, most_waiting: int, deadline: timedelta
    ) -> None:
        self._queue = queue
        self._storage = storage
        self._database = database
        self._most_waiting = most_waiting
        self._deadline = deadline
        self._waiting: dict[uuid.UUID, asyncio.Future[None]] = {}
        self._asking: asyncio.Task[None] | None = None
        self._told: tuple[float, tuple[str, Mapping[Tier, Served]]] | None = None

    def serving(self) -> tuple[str, Mapping[Tier, Served]]:
        if self._told is not None and time.monotonic() - self._told[0] < TOLD_SECONDS:
            return self._told[1]
        self._told = time.monotonic(), self.serving_by(self._queue.workers())
        return self._told[1]

    def serving_by(self, workers: Sequence[WorkerInfo] | None) -> tuple[str, Mapping[Tier, Served]]:
        if workers is None:
            raise QueueUnavailable(
                "The queue does not answer, so no worker can be reached. Try again in a minute."
            )
        alive = [one for one in workers if Line.INTERACTIVE.value in one.queues]
        if not alive:
            raise ModelUnavailable("No worker is alive. Start one with: cutout worker")
        # Any of them may take a photo, and one of an older version knows fewer tiers.
        tiers = {
            tier: served for tier, served in alive[0].tiers.items() if all(tier in w.tiers for w in alive)
        }
        return alive[0].device, tiers

    def enqueue(self, job_id: uuid.UUID, photo: Source, options: Options) -> dict[str, Any]:
        _, tiers = self.serving()
        if options.tier not in tiers:
            raise ModelUnavailable(
                f"Not every worker serves the tier {options.tier} yet. Choose another one, or try again later."
            )
        waiting = self._database.run_read_only(leases.waiting, Line.INTERACTIVE)
        if waiting >= self._most_waiting:
            raise Overloaded(f"{waiting} photos are already waiting. Try again in a moment.", retry_after=5)
        data = photo if isinstance(photo, bytes) else photo.to_bytes()
        self._storage.put(jobs.upload_key(job_id, None), data)
        for picture in options.pictures:
            self._storage.put(jobs.picture_key(job_id, picture.sha256), picture.data)
        return {"status": Status.PENDING, "options": leases.write_options(options), "lease_until": None}

    def withdraw(self, job_id: uuid.UUID) -> None:
        try:
            self._storage.delete(jobs.upload_key(job_id, None))
            # The pictures of its options, if there are any.
            self._storage.delete_older_than(timedelta(0), jobs.uploads_of(job_id))
        except StorageError as error:  # maintenance deletes it
            log.warning("upload not deleted", job=str(job_id), detail=str(error))

    async def make(
        self, job_id: uuid.UUID, photo: Source, options: Options, user_id: uuid.UUID
    ) -> Cutout | None:
        await asyncio.to_thread(self._queue.notify_workers, Line.INTERACTIVE)
        try:
            async with asyncio.timeout(self._deadline.total_seconds()):
                await self._end_of(job_id)
        except TimeoutError:
            raise DeadlineExceeded(
                f"The photo was not processed within {self._deadline.total_seconds():g} s (CUTOUT_DEADLINE_SECONDS)."
                " Try again in a moment."
            ) from None
        return None

    def carry(self, job_id: uuid.UUID, trace: str) -> None:
        self._queue.keep_trace(job_id, trace)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with suppress(asyncio.CancelledError):
                await self._asking

    async def _end_of(self, job_id: uuid.UUID) -> None:
        self._waiting[job_id] = ended = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            # It asks for all, so its log lines name nobody's call.
            self._asking = asyncio.create_task(self._ask(), context=Context())
        try:
            await ended
        finally:
            self._waiting.pop(job_id, None)

    async def _ask(self) -> None:
        is_away = False
        while self._waiting:
            try:
                ended = await asyncio.to_thread(self._ended, list(self._waiting))
                is_away = False
            except Exception as error:  # noqa: BLE001 - the database is away; callers have a deadline
                if not is_away:
                    log.warning("ended jobs not polled", detail=str(error))
                is_away = True
                await asyncio.sleep(ASK_AGAIN_SECONDS)
                continue
            for job_id in ended:
                future = self._waiting.get(job_id)
                if future is not None and not future.done():
                    future.set_result(None)
            await asyncio.sleep(ASK_EVERY_SECONDS)

    def _ended(self, job_ids: Sequence[uuid.UUID]) -> Sequence[uuid.UUID]:
        ended = select(Job.id).where(
            Job.id.in_(job_ids), Job.status.not_in((Status.PENDING, Status.PROCESSING))
        )
        with self._database.read() as session:
            return session.scalars(ended).all()
