"""The signed URLs under which pictures and ZIPs are downloaded, below the service's prefix."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from cutout.app.auth.signed_urls import ServiceSecret, sign
from cutout.app.db.tables import Batch, Job, Status, now

API = "/api/background-remover"
# URLs of pictures that a page shows stay the same for this time, so that a browser finds them in its cache.
SAME_FOR = timedelta(hours=1)


@dataclass(frozen=True)
class JobUrls:
    """The signed URLs of a job's picture and of its thumbnail, valid as long as results are kept."""

    result: str
    thumbnail: str

    @classmethod
    def of(cls, job_id: uuid.UUID, secret: ServiceSecret, kept: timedelta) -> "JobUrls":
        """Sign the URLs of a job."""
        path = f"{API}/jobs/{job_id}"
        return cls(
            sign(secret, f"{path}/image", kept), sign(secret, f"{path}/thumbnail", kept, same_for=SAME_FOR)
        )


def urls_of(job: Job, secret: ServiceSecret, kept: timedelta) -> JobUrls | None:
    """Return the URLs of a job's picture and thumbnail; None if it has none, or they are no longer kept."""
    if job.status is not Status.COMPLETED or job.finished_at is None or job.finished_at + kept <= now():
        return None
    return JobUrls.of(job.id, secret, kept)


def photo_url(job_id: uuid.UUID, secret: ServiceSecret, kept: timedelta) -> str:
    """Return the signed URL of a job's photo, valid as long as photos are kept."""
    return sign(secret, f"{API}/jobs/{job_id}/photo", kept, same_for=SAME_FOR)


def archive_url(batch: Batch, secret: ServiceSecret, kept: timedelta, at: datetime) -> str | None:
    """Return the signed URL of a batch's ZIP, valid as long as the ZIP is kept; None if there is none, or no longer."""
    if batch.zip_bytes is None or batch.finished_at is None:
        return None
    left = batch.finished_at + kept - at
    return sign(secret, f"{API}/batch/{batch.id}/download", left) if left > timedelta(0) else None
