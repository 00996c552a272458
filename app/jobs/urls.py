"""The signed URLs under which pictures and ZIPs are downloaded, below the service's prefix."""

import uuid
from datetime import datetime, timedelta

from cutout.app.auth.signed_urls import ServiceSecret, sign
from cutout.app.db.tables import Batch

API = "/api/background-remover"


def result_url(job_id: uuid.UUID, secret: ServiceSecret, kept: timedelta) -> str:
    """Return the signed URL of a job's picture, valid as long as results are kept."""
    return sign(secret, f"{API}/jobs/{job_id}/image", kept)


def archive_url(batch: Batch, secret: ServiceSecret, kept: timedelta, at: datetime) -> str | None:
    """Return the signed URL of a batch's ZIP, valid as long as the ZIP is kept; None if there is none, or no longer."""
    if batch.zip_bytes is None or batch.finished_at is None:
        return None
    left = batch.finished_at + kept - at
    return sign(secret, f"{API}/batch/{batch.id}/download", left) if left > timedelta(0) else None
