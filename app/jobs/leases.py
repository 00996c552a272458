"""Claims and leases: a worker claims photos for a limited time, and only the latest claim on a photo can end it.

A claim is a token with a lease that its worker keeps renewing. When the lease expires, the worker counts as lost and
other workers take its photos; a late result of the lost worker changes nothing. A photo whose worker was lost is
claimed alone from then on, so that a photo that crashes its worker affects no other photo.

All functions run in the caller's transaction, which the caller commits. Leases are compared with the database's clock,
which all hosts share; `at` replaces its time.
"""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from cutout.app.db.clock import shared_now
from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs import completion
from cutout.app.jobs import queries as jobs
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options

log = structlog.get_logger()

MOST_ATTEMPTS = 3
# A lease or a pause that ends later than this, and later than so many leases from now, is a clock's mistake.
LEASES_AHEAD, LONGEST_LEASE = 20, timedelta(hours=1)
# How many of the batches that have waited longest are searched for photos that no other worker is claiming.
BATCHES_LOOKED_AT = 10
OPTIONS: TypeAdapter[Options] = TypeAdapter(Options)
# The bytes of the options' pictures.
ROW_LACKS: Any = {"background": {"data"}, "hints": {"keep_mask": {"data"}, "drop_mask": {"data"}}}
LOST = (
    f"The service stopped {MOST_ATTEMPTS} times while processing this photo. It was not charged. Save the photo"
    " again or make it smaller, then send it again."
)


EXPIRED = "No worker picked up this photo in time. It was not charged; send it again."


class Line(StrEnum):
    """The two lines of waiting work: photos whose callers wait for the response, and batches."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


@dataclass(frozen=True)
class Claimed:
    """A photo that a worker has claimed, for the `attempt`-th time. If `is_masked`, its upload has masks as well."""

    job_id: uuid.UUID
    batch_id: uuid.UUID | None
    user_id: uuid.UUID
    options: Options
    attempt: int
    is_masked: bool = False

    @property
    def upload(self) -> str:
        """Storage key of the photo."""
        return jobs.upload_key(self.job_id, self.batch_id)

    @property
    def pictures(self) -> dict[str, str]:
        """Storage keys of the pictures that came with the options, by the SHA-256 of their bytes."""
        owner = self.batch_id or self.job_id
        return {one.sha256: jobs.picture_key(owner, one.sha256) for one in self.options.pictures}

    def results(self) -> list[str]:
        """Return the storage keys of results that earlier attempts, of workers that were lost, may have left."""
        wanted = self.options.format
        formats = (Format.PNG, Format.JPG) if wanted is Format.AUTO else (wanted,)
        return [
            jobs.result_key(self.job_id, one, attempt)
            for attempt in range(1, self.attempt)
            for one in formats
        ]


@dataclass(frozen=True)
class Claim:
    """Photos claimed by one worker. `begins` is the id of the batch that begins with this claim, if one does."""

    token: uuid.UUID
    photos: tuple[Claimed, ...]
    begins: uuid.UUID | None = None


def write_options(options: Options) -> dict[str, object]:
    """Return options in the form in which a job's row stores them, without the bytes of their pictures."""
    written: dict[str, object] = OPTIONS.dump_python(options, mode="json", exclude=ROW_LACKS)
    return written


def claim(
    session: Session, line: Line, most: int, lease: timedelta, at: datetime | None = None, shares: int = 1
) -> Claim | None:
    """Claim up to `most` waiting photos; return None if no photo waits. Batches take turns.

    A claim takes at most 1/`shares` of the waiting photos of a batch, so that several workers finish it together. Photos
    whose options this version cannot read are left to workers of a newer one.
    """
    at = at or shared_now(session)
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


def claim_ending(
    session: Session, lease: timedelta, at: datetime | None = None
) -> tuple[uuid.UUID, Batch] | None:
    """Claim a batch whose photos have all ended, in order to end it. Return the token and the batch, or None."""
    at = at or shared_now(session)
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


def has_waiting_work(session: Session, line: Line, at: datetime | None = None) -> bool:
    """Return whether a worker would find something to claim."""
    at = at or shared_now(session)
    in_line = Job.batch_id.is_(None) if line is Line.INTERACTIVE else Job.batch_id.is_not(None)
    if session.scalar(select(exists().where(in_line, *_free(at)))):
        return True
    return line is Line.BATCH and bool(session.scalar(select(exists().where(*_ready_to_end(at)))))


def waiting(session: Session, line: Line) -> int:
    """Return how many photos wait for a worker."""
    in_line = Job.batch_id.is_(None) if line is Line.INTERACTIVE else Job.batch_id.is_not(None)
    counted = select(func.count()).where(in_line, Job.status == Status.PENDING)
    return session.scalar(counted) or 0


def expire(session: Session, waited: timedelta, at: datetime | None = None) -> int:
    """End photos that no worker took within `waited`; their callers no longer wait. Return their number."""
    before = (at or shared_now(session)) - waited
    late = select(Job.id).where(Job.batch_id.is_(None), Job.status == Status.PENDING, Job.created_at < before)
    return sum(
        completion.fail(session, job_id, "DEADLINE_EXCEEDED", EXPIRED)
        for job_id in session.scalars(late).all()
    )


def renew(session: Session, token: uuid.UUID, lease: timedelta, at: datetime | None = None) -> None:
    """Extend the lease of everything claimed with this token."""
    at = at or shared_now(session)
    for table in (Job, Batch):
        session.execute(update(table).where(table.claim == token).values(lease_until=at + lease))


def holds(session: Session, job_id: uuid.UUID, token: uuid.UUID) -> bool:
    """Return whether a photo is still claimed with this token: it was neither cancelled nor released."""
    mine = exists().where(Job.id == job_id, Job.claim == token, Job.status == Status.PROCESSING)
    return bool(session.scalar(select(mine)))


def release_photos(
    session: Session,
    token: uuid.UUID,
    job_ids: Sequence[uuid.UUID],
    *,
    wait: timedelta | None = None,
    tried: bool = False,
) -> None:
    """Release photos that were claimed and not ended; they can be claimed again after `wait`.

    If `tried`, the attempt counts, because the photo itself may have caused its failure, and photos that have had
    `MOST_ATTEMPTS` fail.
    """
    mine = Job.id.in_(job_ids), Job.claim == token, Job.status == Status.PROCESSING
    not_before = None if wait is None else shared_now(session) + wait
    given_back: dict[str, object] = {"status": Status.PENDING, "claim": None, "lease_until": not_before}
    if not tried:
        given_back["attempts"] = Job.attempts - 1
    else:
        for job_id in session.scalars(select(Job.id).where(*mine, Job.attempts >= MOST_ATTEMPTS)).all():
            completion.fail(session, job_id, "INTERNAL", LOST, claim=token)
    session.execute(update(Job).where(*mine).values(given_back))


def release_expired(session: Session, at: datetime | None = None) -> int:
    """Release photos with expired leases, and fail those that have had `MOST_ATTEMPTS`. Return how many expired."""
    at = at or shared_now(session)
    lost = session.execute(
        select(Job.id, Job.claim)
        .where(Job.status == Status.PROCESSING, Job.claim.is_not(None), Job.lease_until < at)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id, token in lost:
        assert token is not None
        release_photos(session, token, [job_id], tried=True)
    return len(lost)


def mend_leases(session: Session, lease: timedelta, at: datetime | None = None) -> int:
    """Shorten leases and pauses that end so late that only a clock that was set back explains it; return how many.

    Otherwise what a lost worker held would stay claimed until the clock is there again.
    """
    at = at or shared_now(session)
    latest = at + max(LONGEST_LEASE, LEASES_AHEAD * lease)
    mended = 0
    for table, unfinished in (
        (Job, Job.status.in_((Status.PENDING, Status.PROCESSING))),
        (Batch, Batch.finished_at.is_(None)),
    ):
        late = update(table).where(unfinished, table.lease_until > latest).values(lease_until=at + lease)
        mended += len(session.scalars(late.returning(table.id)).all())
    return mended


def _free(at: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the SQL conditions for a photo that waits for a worker."""
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
    found = _readable(session, which, most, at)
    if not found:
        return None
    (first, _), *_ = found
    rows = found[:1] if first.attempts > 0 else [one for one in found if one[0].attempts == 0]
    token = uuid.uuid4()
    for job, _ in rows:
        job.status, job.claim, job.lease_until = Status.PROCESSING, token, at + lease
        job.attempts += 1
    session.flush()
    return Claim(
        token,
        tuple(
            Claimed(
                job.id,
                job.batch_id,
                job.user_id,
                options,
                job.attempts,
                is_masked=job.refined_from is not None,
            )
            for job, options in rows
        ),
    )


def _readable(
    session: Session, which: ColumnElement[bool], most: int, at: datetime
) -> list[tuple[Job, Options]]:
    """Lock and return up to `most` free photos whose options this version can read, with these."""
    of_newer: list[uuid.UUID] = []
    while True:
        found = session.scalars(
            select(Job)
            .where(which, *_free(at), Job.id.not_in(of_newer))
            # Photos that have been tried before come last, and are claimed alone.
            .order_by(Job.attempts, Job.created_at, Job.position)
            .limit(most)
            .with_for_update(skip_locked=True)
        ).all()
        readable = []
        for job in found:
            try:
                # A newer version's option must not be ignored: the picture would be another than what was paid for.
                readable.append((job, OPTIONS.validate_python(job.options, extra="forbid")))
            except ValidationError:
                of_newer.append(job.id)
        if readable or not found:
            if of_newer:
                log.warning("photos left to workers of a newer version", photos=len(of_newer))
            return readable
