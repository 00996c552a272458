"""Who works on what: a worker claims photos for a while, and whoever claims them last is the only one that can end them.

A claim is a token, and a lease that its worker keeps renewing. When the lease runs out the worker counts as lost and
others take what it had; its own answer, should it come after all, changes nothing. A photo that was in work when its
worker was lost is taken alone the next times, so that one that kills its worker takes no other with it.

All of these work in a transaction of the caller's, who commits it.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from pydantic import TypeAdapter
from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs import completion
from cutout.app.jobs import queries as jobs
from cutout.inference.options import Options

MOST_ATTEMPTS = 3
# Of the batches that waited longest, how many are looked at for photos that nobody is claiming just now.
BATCHES_LOOKED_AT = 10
OPTIONS: TypeAdapter[Options] = TypeAdapter(Options)
LOST = (
    f"The service stopped at this photo, {MOST_ATTEMPTS} times. It was not charged. Send another version of it, saved"
    " anew or smaller."
)


EXPIRED = "No worker took this photo in time. It was not charged; send it again."


class Line(StrEnum):
    """What waits for workers: photos whose callers wait, and batches."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True)
class Claimed:
    """A photo that a worker has claimed, for the `attempt`-th time."""

    job_id: uuid.UUID
    batch_id: uuid.UUID | None
    user_id: uuid.UUID
    options: Options
    attempt: int

    @property
    def upload(self) -> str:
        """Where the photo is stored."""
        return jobs.upload_key(self.job_id, self.batch_id)

    @property
    def result(self) -> str:
        """Where its picture goes."""
        return jobs.result_key(self.job_id, self.options.format, self.attempt)


@dataclass(frozen=True)
class Claim:
    """Some photos that one worker has. `begins` is the batch whose first ones they are."""

    token: uuid.UUID
    photos: tuple[Claimed, ...]
    begins: uuid.UUID | None = None


def write_options(options: Options) -> dict[str, object]:
    """Return options as a job's row keeps them."""
    written: dict[str, object] = OPTIONS.dump_python(options, mode="json")
    return written


def claim(
    session: Session, line: Line, most: int, lease: timedelta, at: datetime, shares: int = 1
) -> Claim | None:
    """Claim up to `most` photos that wait; None if none does. Batches take turns.

    Of a batch at most one of so many `shares` of what waits, so that several workers come to its end together.
    """
    if line is Line.INTERACTIVE:
        return _take(session, Job.batch_id.is_(None), most, lease, at)
    waiting = exists().where(Job.batch_id == Batch.id, *_free(at))
    oldest = (
        select(Batch.id)
        .where(Batch.finished_at.is_(None), waiting)
        .order_by(Batch.claimed_at.is_not(None), Batch.claimed_at, Batch.created_at)
        .limit(BATCHES_LOOKED_AT)
    )
    for batch_id in session.scalars(oldest).all():
        waiting_here = select(func.count()).where(Job.batch_id == batch_id, *_free(at))
        share = math.ceil((session.scalar(waiting_here) or 0) / shares)
        claimed = _take(session, Job.batch_id == batch_id, min(most, max(1, share)), lease, at)
        if claimed is not None:
            session.execute(update(Batch).where(Batch.id == batch_id).values(claimed_at=at))
            begins = update(Batch).where(Batch.id == batch_id, Batch.status == Status.PENDING)
            begins = begins.values(status=Status.PROCESSING, started_at=at)
            return replace(claimed, begins=session.scalar(begins.returning(Batch.id)))
    return None


def claim_ending(session: Session, lease: timedelta, at: datetime) -> tuple[uuid.UUID, Batch] | None:
    """Claim a batch whose photos have all ended, to end it too: the token, and the batch. None if there is none."""
    batch = session.scalars(
        select(Batch)
        .where(*_ready_to_end(at))
        .order_by(Batch.created_at)
        .limit(1)
        .with_for_update(skip_locked=True)
    ).one_or_none()
    if batch is None:
        return None
    token = uuid.uuid4()
    batch.claim, batch.lease_until = token, at + lease
    session.flush()
    return token, batch


def has_waiting_work(session: Session, line: Line, at: datetime) -> bool:
    """Tell whether a worker would find something to claim."""
    in_line = Job.batch_id.is_(None) if line is Line.INTERACTIVE else Job.batch_id.is_not(None)
    if session.scalar(select(exists().where(in_line, *_free(at)))):
        return True
    return line is Line.BATCH and bool(session.scalar(select(exists().where(*_ready_to_end(at)))))


def waiting(session: Session, line: Line) -> int:
    """Return how many photos wait for a worker."""
    in_line = Job.batch_id.is_(None) if line is Line.INTERACTIVE else Job.batch_id.is_not(None)
    counted = select(func.count()).where(in_line, Job.status == Status.PENDING)
    return session.scalar(counted) or 0


def expire(session: Session, before: datetime) -> int:
    """End the photos whose callers have long stopped to wait, handed over before then and never done; return how many."""
    late = select(Job.id).where(Job.batch_id.is_(None), Job.status == Status.PENDING, Job.created_at < before)
    return sum(
        completion.fail(session, job_id, "DEADLINE_EXCEEDED", EXPIRED)
        for job_id in session.scalars(late).all()
    )


def renew(session: Session, token: uuid.UUID, lease: timedelta, at: datetime) -> None:
    """Keep what is claimed by this token for another lease."""
    for table in (Job, Batch):
        session.execute(update(table).where(table.claim == token).values(lease_until=at + lease))


def holds(session: Session, job_id: uuid.UUID, token: uuid.UUID) -> bool:
    """Tell whether a photo is still claimed by this token: it was not cancelled, nor its worker taken for lost."""
    mine = exists().where(Job.id == job_id, Job.claim == token, Job.status == Status.PROCESSING)
    return bool(session.scalar(select(mine)))


def release_photos(
    session: Session,
    token: uuid.UUID,
    job_ids: Sequence[uuid.UUID],
    *,
    not_before: datetime | None = None,
    tried: bool = False,
) -> None:
    """Give photos back that were claimed and not ended, to be taken again from `not_before` on.

    `tried` says that their attempt counts: it may be their own fault that it came to nothing. Then those fail that have
    had `MOST_ATTEMPTS`.
    """
    mine = Job.id.in_(job_ids), Job.claim == token, Job.status == Status.PROCESSING
    given_back: dict[str, object] = {"status": Status.PENDING, "claim": None, "lease_until": not_before}
    if not tried:
        given_back["attempts"] = Job.attempts - 1
    else:
        for job_id in session.scalars(select(Job.id).where(*mine, Job.attempts >= MOST_ATTEMPTS)).all():
            completion.fail(session, job_id, "INTERNAL", LOST, claim=token)
    session.execute(update(Job).where(*mine).values(given_back))


def release_expired(session: Session, at: datetime) -> int:
    """Free the photos whose worker counts as lost; those that lost `MOST_ATTEMPTS` of them fail. Return how many."""
    lost = session.execute(
        select(Job.id, Job.claim)
        .where(Job.status == Status.PROCESSING, Job.claim.is_not(None), Job.lease_until < at)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id, token in lost:
        assert token is not None
        release_photos(session, token, [job_id], tried=True)
    return len(lost)


def _free(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions that a photo waits for a worker."""
    not_before = or_(Job.lease_until.is_(None), Job.lease_until <= at)
    return Job.status == Status.PENDING, not_before


def _ready_to_end(at: datetime) -> tuple[ColumnElement[bool], ...]:
    job = aliased(Job)
    in_work = exists().where(job.batch_id == Batch.id, job.status.in_((Status.PENDING, Status.PROCESSING)))
    nobody_does = or_(Batch.lease_until.is_(None), Batch.lease_until <= at)
    return Batch.finished_at.is_(None), nobody_does, ~in_work


def _take(
    session: Session, which: ColumnElement[bool], most: int, lease: timedelta, at: datetime
) -> Claim | None:
    found = session.scalars(
        select(Job)
        .where(which, *_free(at))
        # What has been tried before comes last, and alone.
        .order_by(Job.attempts, Job.created_at, Job.position)
        .limit(most)
        .with_for_update(skip_locked=True)
    ).all()
    if not found:
        return None
    rows = found[:1] if found[0].attempts > 0 else [job for job in found if job.attempts == 0]
    token = uuid.uuid4()
    for job in rows:
        job.status, job.claim, job.lease_until = Status.PROCESSING, token, at + lease
        job.attempts += 1
    session.flush()
    return Claim(
        token,
        tuple(
            Claimed(job.id, job.batch_id, job.user_id, OPTIONS.validate_python(job.options), job.attempts)
            for job in rows
        ),
    )
