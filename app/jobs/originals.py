"""The photos of finished removals with their masks, kept as long as results, so that results can be refined."""

import uuid

import structlog

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
