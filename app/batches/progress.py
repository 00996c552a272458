"""Progress of a batch: the state of each photo, and a stream of changes.

Statuses of photos are written as a text with a letter for each photo, so that a client which reconnects can say what it
has seen.
"""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app.batches import service as batches
from cutout.app.batches.service import Progress
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Delivery, Job, Status
from cutout.app.jobs.schemas import StoreInfo
from cutout.app.stores.service import infos_of_batch

LOOK_AGAIN_SECONDS = 0.5
# The statuses that a photo can have, by their letters.
STATUSES = {
    "w": Status.PENDING,
    "p": Status.PROCESSING,
    "c": Status.COMPLETED,
    "f": Status.FAILED,
    "x": Status.CANCELLED,
}
LETTERS = {status: letter for letter, status in STATUSES.items()}


@dataclass(frozen=True)
class PhotoState:
    """The status of a photo, with the error if it failed, and the facts about its subject if it is done. `has_store` says that
    its result goes to a store.
    """

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
    has_store: bool | None


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
    """The status of a batch at one moment, and those of its photos in letters."""

    status: Status
    started_at: datetime | None
    finished_at: datetime | None
    photos: str

    @property
    def progress(self) -> Progress:
        counts = Counter(self.photos)
        return Progress({status: counts[letter] for letter, status in STATUSES.items() if counts[letter]})


@dataclass(frozen=True)
class BatchChange:
    """The state of a batch, and its photos whose status has changed since the one before."""

    now: BatchSnapshot
    photos: Sequence[PhotoState]


def view(session: Session, user_id: uuid.UUID, batch_id: uuid.UUID) -> BatchView | None:
    """Return a user's batch with photos and notifications; None if it does not exist or belongs to another user."""
    batch = batches.find(session, user_id, batch_id)
    if batch is None:
        return None
    photos = photos_at(session, batch_id)
    deliveries = select(Delivery).where(Delivery.batch_id == batch_id).order_by(Delivery.channel)
    return BatchView(
        batch,
        photos,
        session.scalars(deliveries).all(),
        infos_of_batch(session, batch_id) if any(photo.has_store for photo in photos) else {},
    )


def photos_at(
    session: Session, batch_id: uuid.UUID, positions: Collection[int] | None = None
) -> list[PhotoState]:
    """Return the states of a batch's photos in upload order: those at these positions, or all."""
    # Columns only: loading 500 ORM objects takes ten times as long.
    rows = (
        select(
            Job.position,
            Job.name,
            Job.id,
            Job.status,
            Job.error_code,
            Job.error_detail,
            Job.subject,
            Job.coverage,
            Job.uncertainty,
            Job.needs_review,
            Job.has_store,
        )
        .where(Job.batch_id == batch_id)
        .order_by(Job.position)
    )
    if positions is not None:
        rows = rows.where(Job.position.in_(positions))
    return [
        PhotoState(position or 0, name or "", *others) for position, name, *others in session.execute(rows)
    ]


def snapshot(session: Session, batch_id: uuid.UUID) -> BatchSnapshot:
    """Return the current state of a batch."""
    batch = session.execute(
        select(Batch.status, Batch.started_at, Batch.finished_at).where(Batch.id == batch_id)
    ).one()
    photos = session.scalars(select(Job.status).where(Job.batch_id == batch_id).order_by(Job.position))
    return BatchSnapshot(
        batch.status, batch.started_at, batch.finished_at, "".join(LETTERS[status] for status in photos)
    )


def change(session: Session, batch_id: uuid.UUID, known: str) -> BatchChange:
    """Return the current state of a batch, and its photos whose status is not as in `known`.

    Without a letter in `known`, a photo counts as waiting.
    """
    now = snapshot(session, batch_id)
    known = known.ljust(len(now.photos), LETTERS[Status.PENDING])
    changed = [
        position for position, (old, new) in enumerate(zip(known, now.photos, strict=False)) if old != new
    ]
    return BatchChange(now, photos_at(session, batch_id, changed) if changed else [])


async def watch(
    database: Database, batch_id: uuid.UUID, known: str, stopping: asyncio.Event
) -> AsyncIterator[BatchChange]:
    """Yield the state of a batch, now and at each change, until it has finished or the service stops.

    `known` are the photos' statuses that the client has seen, in letters; empty if it has seen none.
    """
    told: BatchSnapshot | None = None
    while not stopping.is_set():
        with suppress(OperationalError):  # the next poll tries again
            seen = await asyncio.to_thread(
                database.run_read_only, change, batch_id, known if told is None else told.photos
            )
            if seen.now != told:
                told = seen.now
                yield seen
        if told is not None and told.finished_at is not None:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), LOOK_AGAIN_SECONDS)
