"""Queries for a user's jobs and their results, and the storage keys of photos and results."""

import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, exists, func, or_, select, tuple_
from sqlalchemy.orm import aliased

from cutout.app.auth import accounts
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.storage.base import Storage
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Tier

RESULTS, UPLOADS = "results/", "uploads/"
# How the names of pictures begin that came with options: those of strokes too, as jobs of older versions wait.
PICTURE = "background-"
# Characters of a photo's file name that are stored.
LONGEST_NAME = 1000


def find(database: Database, user_id: uuid.UUID, job_id: uuid.UUID) -> Job | None:
    """Return a user's job, or None if it does not exist or belongs to another user."""
    with database.read() as session:
        job = session.get(Job, job_id)
        return job if job is not None and job.user_id == user_id else None


@dataclass(frozen=True)
class Wanted:
    """Which jobs of a user are listed: those that all given values fit.

    `since` and `until` are the times between which they were created. `search` is a part of the `name`; the case of
    its letters does not matter, on SQLite of those of ASCII. With `latest` each photo counts once, however often its
    result was refined: of the completed results the newest is listed.
    """

    statuses: Collection[Status] = ()
    tiers: Collection[Tier] = ()
    batch_id: uuid.UUID | None = None
    since: datetime | None = None
    until: datetime | None = None
    needs_review: bool | None = None
    search: str = ""
    latest: bool = False

    def conditions(self) -> Iterator[ColumnElement[bool]]:
        """Yield the conditions on `Job` as SQL."""
        if self.statuses:
            yield Job.status.in_(self.statuses)
        if self.tiers:
            yield Job.tier.in_(self.tiers)
        if self.batch_id is not None:
            yield Job.batch_id == self.batch_id
        if self.since is not None:
            yield Job.created_at >= self.since
        if self.until is not None:
            yield Job.created_at < self.until
        if self.needs_review is not None:
            yield Job.needs_review.is_(self.needs_review)
        if self.search:
            yield Job.name.icontains(self.search, autoescape=True)
        if self.latest:
            yield from _latest()


def _latest() -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that a job is no failed refinement, and that no newer one of its photo is completed.

    For each job this is one look into the index of `refined_from`.
    """
    yield or_(Job.refined_from.is_(None), Job.status == Status.COMPLETED)
    newer = aliased(Job)
    yield ~exists().where(
        newer.refined_from == func.coalesce(Job.refined_from, Job.id),
        newer.status == Status.COMPLETED,
        tuple_(newer.created_at, newer.id) > tuple_(Job.created_at, Job.id),
    )


def page(
    database: Database, user_id: uuid.UUID, wanted: Wanted, limit: int = 50, offset: int = 0
) -> tuple[Sequence[Job], bool]:
    """Return a page of a user's jobs, newest first, and whether there are more behind it."""
    rows = select(Job).where(Job.user_id == user_id, *wanted.conditions())
    rows = rows.order_by(Job.created_at.desc(), Job.position, Job.id).limit(limit + 1).offset(offset)
    with database.read() as session:
        found = session.scalars(rows).all()
    return found[:limit], len(found) > limit


def find_readable(database: Database, job_id: uuid.UUID, owner: uuid.UUID | None) -> Job | None:
    """Return a job whose pictures may be read, or None if it does not exist or does not belong to `owner`.

    `owner` is None for a request with a signed URL, which may read the pictures of any user.

    Raises:
        AccountDisabled: the URL is signed, and the user's account is disabled.

    """
    with database.read() as session:
        job = session.get(Job, job_id)
        if job is None or owner not in (None, job.user_id):
            return None
        if owner is None:  # by a signed URL
            accounts.require_enabled(session, job.user_id)
        return job


async def stored_picture(
    database: Database, storage: Storage, job_id: uuid.UUID, owner: uuid.UUID | None
) -> tuple[bytes, Format] | None:
    """Return the result of a job and its format, or None if there is none or `owner` may not read it.

    Raises:
        AccountDisabled: see `find_readable`.

    """

    def fetch() -> tuple[bytes, Format] | None:
        job = find_readable(database, job_id, owner)
        if job is None:
            return None
        data = storage.get(result_key_of(job))
        return None if data is None else (data, Format(job.format))

    return await to_storage_thread(fetch)


def result_key(job_id: uuid.UUID, file_format: Format, attempt: int = 0) -> str:
    """Return the storage key of a job's result.

    Each attempt has a separate key, so a late result of a lost worker never replaces the result of another worker.
    """
    return f"{RESULTS}{job_id}{f'-{attempt}' if attempt else ''}.{file_format.value}"


def result_key_of(job: Job) -> str:
    """Return the storage key of the result of a completed job."""
    return result_key(job.id, Format(job.format), job.attempts)


def upload_key(job_id: uuid.UUID, batch_id: uuid.UUID | None) -> str:
    """Return the storage key of a photo that waits for a worker."""
    return f"{uploads_of(batch_id or job_id)}{job_id}"


def picture_key(batch_or_job_id: uuid.UUID, sha256: str) -> str:
    """Return the storage key of a picture that came with the options of a batch, or of a job without one."""
    return f"{uploads_of(batch_or_job_id)}{PICTURE}{sha256}"


def uploads_of(batch_or_job_id: uuid.UUID) -> str:
    """Return the storage prefix of the photos of a batch, or of a job that belongs to no batch."""
    return f"{UPLOADS}{batch_or_job_id}/"


def archive_key(batch_id: uuid.UUID) -> str:
    """Return the storage key of a batch's ZIP."""
    return f"{RESULTS}{batch_id}.zip"
