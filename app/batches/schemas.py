"""Response schemas of the batch endpoints."""

import math
import uuid
from collections.abc import Callable
from datetime import datetime

from cutout.app.batches.progress import BatchView, PhotoState
from cutout.app.batches.service import Progress
from cutout.app.billing.pricing import Price
from cutout.app.billing.schemas import PriceInfo
from cutout.app.core.schema import Schema
from cutout.app.db.tables import Batch, Channel, Delivery, Status
from cutout.app.jobs.schemas import JobError, StoreInfo, SubjectBox
from cutout.app.jobs.urls import JobUrls
from cutout.inference.tiers import Tier


class BatchAccepted(Schema):
    """An accepted batch.

    `estimatedSeconds` is based on recent batches of the same tier, and null if there are none yet. `webhookSecret` is
    the key that webhooks to your `webhookUrl` are signed with; it is the same for all your batches, and null if the
    request has no `webhookUrl`.
    """

    batch_id: uuid.UUID
    status: Status
    price: PriceInfo
    estimated_seconds: int | None
    status_url: str
    events_url: str
    webhook_secret: str | None


class Counts(Schema):
    """The number of photos of a batch in each status."""

    completed: int
    failed: int
    cancelled: int
    processing: int
    pending: int


class ProgressInfo(Schema):
    """The progress of a batch. `secondsLeft` is estimated from the photos done so far, and null before the first."""

    status: Status
    images: int
    counts: Counts
    percent: int
    seconds_left: int | None

    @classmethod
    def told(
        cls, status: Status, progress: Progress, started_at: datetime | None, at: datetime
    ) -> "ProgressInfo":
        """Return the progress at the time `at`."""
        left = progress.total - progress.ended
        seconds_left = 0 if left == 0 else None
        if left and progress.ended and started_at is not None:
            seconds_left = math.ceil(left * (at - started_at).total_seconds() / progress.ended)
        return cls(
            status=status,
            images=progress.total,
            counts=Counts(**{name: progress.counts.get(Status(name), 0) for name in Counts.model_fields}),
            percent=100 * progress.ended // progress.total,
            seconds_left=seconds_left,
        )


class BatchSummary(ProgressInfo):
    """A batch without its photos.

    `creditsCharged` is the final charge for the photos that succeeded; it is null until it is settled, and until then
    the full `price` is held. `zipUrl` is a signed URL of the results that works without authentication, as long as
    the ZIP is kept; it is null if there is no ZIP.
    """

    batch_id: uuid.UUID
    tier: Tier
    price: PriceInfo
    credits_charged: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    zip_url: str | None

    @classmethod
    def of(cls, batch: Batch, progress: Progress, zip_url: str | None, at: datetime) -> "BatchSummary":
        """Return the summary of a batch at the time `at`."""
        return cls(
            **dict(ProgressInfo.told(batch.status, progress, batch.started_at, at)),
            batch_id=batch.id,
            tier=batch.tier,
            price=price_of(batch),
            credits_charged=batch.charged,
            created_at=batch.created_at,
            started_at=batch.started_at,
            finished_at=batch.finished_at,
            zip_url=zip_url,
        )


class Batches(Schema):
    """A page of batches, newest first."""

    batches: list[BatchSummary]


class BatchPhoto(Schema):
    """A photo of a batch, which is also a job. `position` counts from 0; `name` is the file name as it was sent.

    `subject`, `coverage`, `uncertainty` and `needsReview` are those of the job, null until the photo is done.
    """

    position: int
    name: str
    job_id: uuid.UUID
    status: Status
    subject: SubjectBox | None
    coverage: float | None
    uncertainty: float | None
    needs_review: bool | None
    result_url: str | None
    thumbnail_url: str | None
    store: StoreInfo | None
    error: JobError | None

    @classmethod
    def of(
        cls, photo: PhotoState, urls_of: Callable[[uuid.UUID], JobUrls], store: StoreInfo | None = None
    ) -> "BatchPhoto":
        """Return the schema of a photo; `urls_of` returns the URLs of a job."""
        failed = photo.status is Status.FAILED
        urls = urls_of(photo.job_id) if photo.status is Status.COMPLETED else None
        return cls(
            position=photo.position,
            name=photo.name,
            job_id=photo.job_id,
            status=photo.status,
            subject=SubjectBox.of(photo.subject),
            coverage=photo.coverage,
            uncertainty=photo.uncertainty,
            needs_review=photo.needs_review,
            result_url=None if urls is None else urls.result,
            thumbnail_url=None if urls is None else urls.thumbnail,
            store=store,
            error=JobError(code=photo.error_code or "", detail=photo.error_detail or "") if failed else None,
        )


class ChangedPhotos(Schema):
    """The photos of a batch whose status has changed."""

    photos: list[BatchPhoto]


class DeliveryInfo(Schema):
    """A notification about a finished batch.

    `status` is the HTTP status code of the webhook's last response, `error` the reason why the last attempt failed.
    """

    channel: Channel
    attempts: int
    delivered_at: datetime | None
    status: int | None
    error: str | None

    @classmethod
    def of(cls, delivery: Delivery) -> "DeliveryInfo":
        return cls(
            channel=delivery.channel,
            attempts=delivery.attempts,
            delivered_at=delivery.delivered_at,
            status=delivery.status,
            error=delivery.error,
        )


class BatchInfo(BatchSummary):
    """A batch with its photos, in the order in which they were sent, and its notifications."""

    photos: list[BatchPhoto]
    deliveries: list[DeliveryInfo]

    @classmethod
    def of_view(
        cls, view: BatchView, zip_url: str | None, at: datetime, urls_of: Callable[[uuid.UUID], JobUrls]
    ) -> "BatchInfo":
        """Return the schema of a batch with photos and notifications."""
        return cls(
            **dict(BatchSummary.of(view.batch, view.progress, zip_url, at)),
            photos=[BatchPhoto.of(photo, urls_of, view.stores.get(photo.job_id)) for photo in view.photos],
            deliveries=[DeliveryInfo.of(delivery) for delivery in view.deliveries],
        )


def price_of(batch: Batch) -> PriceInfo:
    """Return the price of a batch as it was when the batch was accepted."""
    each = (batch.credits + batch.discount) // batch.images
    return PriceInfo.of(batch.tier, Price(each, batch.images, batch.discount_percent))
