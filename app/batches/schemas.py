"""What the API gives of batches."""

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
from cutout.app.jobs.schemas import JobError
from cutout.inference.tiers import Tier


class BatchAccepted(Schema):
    """A batch that was taken in. `estimatedSeconds` goes by how long others of its tier took, and is null before any.

    With a `webhookUrl`, what is sent there is signed with `webhookSecret`, which is the same for all batches of a user.
    """

    batch_id: uuid.UUID
    status: Status
    price: PriceInfo
    estimated_seconds: int | None
    status_url: str
    events_url: str
    webhook_secret: str | None


class Counts(Schema):
    """How many photos of a batch are in which status."""

    completed: int
    failed: int
    cancelled: int
    processing: int
    pending: int


class ProgressInfo(Schema):
    """How far a batch is. `secondsLeft` goes by how long what is done took, and is null before anything is."""

    status: Status
    images: int
    counts: Counts
    percent: int
    seconds_left: int | None

    @classmethod
    def told(
        cls, status: Status, progress: Progress, started_at: datetime | None, at: datetime
    ) -> "ProgressInfo":
        """Tell it as it is `at` a time."""
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
    """A batch. `creditsCharged` is what its pictures cost, once that is settled; until then all of `price` is held.

    `zipUrl` gives the ZIP, as long as it is kept, to whoever has it; it is null where there is none.
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
        """Describe a batch as it is `at` a time."""
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
    """A page of batches, the newest first."""

    batches: list[BatchSummary]


class BatchPhoto(Schema):
    """A photo of a batch, which is a job too; `position` is from 0, and `name` its file's, as it was sent."""

    position: int
    name: str
    job_id: uuid.UUID
    status: Status
    result_url: str | None
    error: JobError | None

    @classmethod
    def of(cls, photo: PhotoState, url_of: Callable[[uuid.UUID], str]) -> "BatchPhoto":
        """Describe a photo; `url_of` makes the address of its picture, where there is one."""
        failed = photo.status is Status.FAILED
        return cls(
            position=photo.position,
            name=photo.name,
            job_id=photo.job_id,
            status=photo.status,
            result_url=url_of(photo.job_id) if photo.status is Status.COMPLETED else None,
            error=JobError(code=photo.error_code or "", detail=photo.error_detail or "") if failed else None,
        )


class DeliveryInfo(Schema):
    """Word of a batch's end: `status` is what a web address answered last, `error` why the last attempt was in vain."""

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
    """A batch with its photos, in the order in which they were sent, and who was told of its end."""

    photos: list[BatchPhoto]
    deliveries: list[DeliveryInfo]

    @classmethod
    def of_view(
        cls, view: BatchView, zip_url: str | None, at: datetime, url_of: Callable[[uuid.UUID], str]
    ) -> "BatchInfo":
        """Describe all of a batch."""
        return cls(
            **dict(BatchSummary.of(view.batch, view.progress, zip_url, at)),
            photos=[BatchPhoto.of(photo, url_of) for photo in view.photos],
            deliveries=[DeliveryInfo.of(delivery) for delivery in view.deliveries],
        )


def price_of(batch: Batch) -> PriceInfo:
    """Describe what a batch costs, as it was priced when it was taken in."""
    each = (batch.credits + batch.discount) // batch.images
    return PriceInfo.of(batch.tier, Price(each, batch.images, batch.discount_percent))
