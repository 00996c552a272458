"""Progress of a batch: the state of each photo, and a stream of changes."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app.batches import service as batches
from cutout.app.batches.service import Progress
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Delivery, Job, Status
from cutout.app.jobs.schemas import StoreInfo
from cutout.app.stores.service import infos_of_batch

LOOK_AGAIN_SECONDS = 0.5


@dataclass(frozen=True)
class PhotoState:
    """The status of a photo, with the error if it failed, and the facts about its subject if it is done."""

    position: int
    name: str
    job_id: uuid.UUID
    status: Status
    error_code: str | None
    error_detail: str | None
    subject: dict[str, int] | None
    coverage: float | None
    uncertainty: float | None
    needs_review: bool | None


@dataclass(frozen=True)
class BatchView:
    """A batch with its photos in upload order, its notifications, and the ways of its results to stores, by job."""

    batch: Batch
    photos: Sequence[PhotoState]
    deliveries: Sequence[Delivery]
    stores: Mapping[uuid.UUID, StoreInfo] = field(default_factory=dict)

    @property
    def progress(self) -> Progress:
        return Progress(Counter(photo.status for photo in self.photos))


@dataclass(frozen=True)
class BatchSnapshot:
    """The status and progress of a batch at one moment, without its photos."""

    status: Status
    started_at: datetime | None
    finished_at: datetime | None
    progress: Progress


def view(session: Session, user_id: uuid.UUID, batch_id: uuid.UUID) -> BatchView | None:
    """Return a user's batch with photos and notifications; None if it does not exist or belongs to another user."""
    batch = batches.find(session, user_id, batch_id)
    if batch is None:
        return None
    # Columns only: loading 500 ORM objects takes ten times as long.
    photos = session.execute(
        select(
            Job.position,
            Job.name,
            Job.has_store,
            Job.id,
            Job.status,
            Job.error_code,
            Job.error_detail,
            Job.subject,
            Job.coverage,
            Job.uncertainty,
            Job.needs_review,
        )
        .where(Job.batch_id == batch_id)
        .order_by(Job.position)
    ).all()
    deliveries = select(Delivery).where(Delivery.batch_id == batch_id).order_by(Delivery.channel)
    return BatchView(
        batch,
        [PhotoState(position or 0, name or "", *others) for position, name, _, *others in photos],
        session.scalars(deliveries).all(),
        infos_of_batch(session, batch_id) if any(photo.has_store for photo in photos) else {},
    )


def moment(session: Session, batch_id: uuid.UUID) -> BatchSnapshot:
    """Return the current status and progress of a batch."""
    rows = session.execute(
        select(Batch.status, Batch.started_at, Batch.finished_at, Job.status, func.count())
        .join(Job, Job.batch_id == Batch.id)
        .where(Batch.id == batch_id)
        .group_by(Batch.id, Job.status)
    ).all()
    status, started_at, finished_at, _, _ = rows[0]
    return BatchSnapshot(
        status, started_at, finished_at, Progress({photos: count for _, _, _, photos, count in rows})
    )


async def watch(
    database: Database, batch_id: uuid.UUID, stopping: asyncio.Event
) -> AsyncIterator[BatchSnapshot]:
    """Yield the progress of a batch, now and at each change, until it has finished or the service stops."""
    told: BatchSnapshot | None = None
    while not stopping.is_set():
        seen = told
        with suppress(OperationalError):  # the next poll tries again
            seen = await asyncio.to_thread(database.run_read_only, moment, batch_id)
        if seen is not None and seen != told:
            told = seen
            yield seen
        if told is not None and told.finished_at is not None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_AGAIN_SECONDS)
