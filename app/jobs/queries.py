"""Queries for a user's jobs and their results, and the storage keys of photos and results."""

import uuid
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select

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


def find(database: Database, user_id: uuid.UUID, job_id: uuid.UUID) -> Job | None:
    """Return a user's job, or None if it does not exist or belongs to another user."""
    with database.read() as session:
        job = session.get(Job, job_id)
        return job if job is not None and job.user_id == user_id else None


def page(
    database: Database,
    user_id: uuid.UUID,
    *,
    status: Status | None = None,
    tier: Tier | None = None,
    batch_id: uuid.UUID | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 50,
    offset: int = 0,
) -> Sequence[Job]:
    """Return a page of a user's jobs, newest first, filtered by the given values."""
    rows = select(Job).where(Job.user_id == user_id)
    if status is not None:
        rows = rows.where(Job.status == status)
    if tier is not None:
        rows = rows.where(Job.tier == tier)
    if batch_id is not None:
        rows = rows.where(Job.batch_id == batch_id)
    if since is not None:
        rows = rows.where(Job.created_at >= since)
    if until is not None:
        rows = rows.where(Job.created_at < until)
    with database.read() as session:
        return session.scalars(
            rows.order_by(Job.created_at.desc(), Job.position, Job.id).limit(limit).offset(offset)
        ).all()


async def stored_picture(
    database: Database, storage: Storage, job_id: uuid.UUID, owner: uuid.UUID | None
) -> tuple[bytes, Format] | None:
    """Return the result of a job and its format, or None if there is none or the job does not belong to `owner`.

    `owner` is None for a request with a signed URL, which may read the result of any user.

    Raises:
        AccountDisabled: the URL is signed, and the user's account is disabled.

    """

    def fetch() -> tuple[bytes, Format] | None:
        with database.read() as session:
            job = session.get(Job, job_id)
            if job is None or owner not in (None, job.user_id):
                return None
            if owner is None:  # by a signed URL
                accounts.require_enabled(session, job.user_id)
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
