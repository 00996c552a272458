"""The photos of finished removals with their masks, kept as long as results, so that results can be refined."""

import uuid

import structlog
from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from cutout.app.db.tables import Job, Status
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.masked_photo import MaskedPhoto

log = structlog.get_logger()

ORIGINALS = "originals/"


def original_key(job_id: uuid.UUID) -> str:
    """Return the storage key of a job's photo with its masks."""
    return f"{ORIGINALS}{job_id}"


def keep(storage: Storage, job_id: uuid.UUID, photo: MaskedPhoto) -> None:
    """Keep a job's photo. If the storage fails, the result cannot be refined, and that is all."""
    try:
        storage.put(original_key(job_id), photo.to_bytes())
    except StorageError as error:
        log.warning(
            "photo not kept, so its result cannot be refined",
            job=str(job_id),
            detail=error.cause or str(error),
        )


def may_have_one(session: Session, job_id: uuid.UUID) -> bool:
    """Return whether a photo may be kept for a job: it has a result, or an attempt that goes on may give it one."""
    hoped_for = Status.PENDING, Status.PROCESSING, Status.COMPLETED
    return bool(session.scalar(select(exists().where(Job.id == job_id, Job.status.in_(hoped_for)))))
