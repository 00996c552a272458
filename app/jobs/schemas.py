"""Response schemas for jobs and for the models that serve each tier."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum

from cutout.app.billing.pricing import CREDITS
from cutout.app.core.schema import Schema
from cutout.app.db.tables import Job, PaidBy, Status
from cutout.app.jobs.model_status import Served
from cutout.app.jobs.urls import JobUrls
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Recipe, Tier


class TierInfo(Schema):
    """A tier, its price, and the model that serves it. If `substitute` is true, `model` stands in for `wanted`; if `own`
    is, it is the operator's own weights.
    """

    name: str
    credits: int
    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool
    own: bool

    @classmethod
    def by_tier(cls, tiers: Mapping[Tier, Served]) -> "dict[Tier, TierInfo]":
        """Describe each tier and the model that serves it."""
        return {
            tier: cls(name=tier.value.capitalize(), credits=CREDITS[tier], **asdict(served))
            for tier, served in tiers.items()
        }


class JobInfo(Schema):
    """A background removal of one photo. The subscription's quota pays for it, or credits, or it is free; `credits` is 0
    unless they pay.

    A completed job has a `resultUrl` as long as the image is kept: a signed URL that gives the image to anybody who has
    it, until it expires. `thumbnailUrl` is one of a small copy, made when it is first asked for.
    `subject` is the subject's box in the image, null if there is no subject; `coverage`, 0…1, is the share of the
    image that the subject takes. `uncertainty`, 0…1, is the share of the subject that the network was undecided about,
    and `needsReview` says that a person should look at the image. `processingMs` is the total processing time. A
    failed job has an `error` instead and costs nothing. A job that refines the result of another has that one's id in
    `refinedFrom`. A job of a batch has the batch's `batchId` and its `position` in the batch, from 0. `name` is the
    file name of the photo, as it was sent; null if it had none. `frames` is how many frames of an animation the image
    has, each of which has the price of the tier. `store` says whether the image is in the store that the request named; it is null without
    one, and for a job without an image.
    """

    job_id: uuid.UUID
    batch_id: uuid.UUID | None
    refined_from: uuid.UUID | None
    position: int | None
    name: str | None
    frames: int
    status: Status
    tier: Tier
    credits: int
    paid_by: PaidBy
    created_at: datetime
    finished_at: datetime | None
    format: Format
    model: str | None
    backend: str | None
    substitute: bool | None
    width: int | None
    height: int | None
    no_foreground: bool | None
    subject: "SubjectBox | None"
    coverage: float | None
    uncertainty: float | None
    needs_review: bool | None
    notes: list[str]
    processing_ms: int | None
    stage_ms: dict[str, int] | None
    result_url: str | None
    thumbnail_url: str | None
    store: "StoreInfo | None"
    error: "JobError | None"

    @classmethod
    def of(cls, job: Job, urls: JobUrls | None, store: "StoreInfo | None" = None) -> "JobInfo":
        """Describe a job; `urls` are None if it has no result, or no longer."""
        failed = job.status is Status.FAILED
        return cls(
            job_id=job.id,
            batch_id=job.batch_id,
            refined_from=job.refined_from,
            position=job.position,
            name=job.name,
            frames=job.frames or 1,
            status=job.status,
            tier=job.tier,
            credits=0 if failed or job.status is Status.CANCELLED else job.credits,
            paid_by=job.paid_by,
            created_at=job.created_at,
            finished_at=job.finished_at,
            format=Format(job.format),
            model=job.model,
            backend=job.backend,
            substitute=job.substitute,
            width=job.width,
            height=job.height,
            no_foreground=job.no_foreground,
            subject=SubjectBox.of(job.subject),
            coverage=job.coverage,
            uncertainty=job.uncertainty,
            needs_review=job.needs_review,
            notes=job.notes or [],
            processing_ms=job.milliseconds,
            stage_ms=job.stage_milliseconds,
            result_url=None if urls is None else urls.result,
            thumbnail_url=None if urls is None else urls.thumbnail,
            store=store,
            error=JobError(code=job.error_code or "", detail=job.error_detail or "") if failed else None,
        )


class JobDetails(JobInfo):
    """A job, with a signed URL of its photo in `photoUrl`, null if the photo is not kept.

    `inPlace` says that the image shows the subject where it is in the photo, so that one lies over the other if both
    are shown at one size; it is false for a layout such as `trim`, and without a photo. `corrected` says that the job
    refines the result of another one with other hints, and not only in its format, layout or background.
    """

    photo_url: str | None
    in_place: bool
    corrected: bool

    @classmethod
    def with_photo(
        cls, info: JobInfo, photo_url: str | None, *, in_place: bool, corrected: bool
    ) -> "JobDetails":
        """Add its photo to a job."""
        return cls(**dict(info), photo_url=photo_url, in_place=in_place, corrected=corrected)


class SubjectBox(Schema):
    """The subject's box in an image, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @classmethod
    def of(cls, stored: Mapping[str, int] | None) -> "SubjectBox | None":
        """Return the box in a job's row; None if there is none."""
        return None if stored is None else cls(**stored)


class StoreStatus(StrEnum):
    """Whether a result is in its user's own store."""

    STORED = "stored"
    PENDING = "pending"
    FAILED = "failed"


class StoreInfo(Schema):
    """The way of an image to the store that the request named.

    `stored`: it is there. `pending`: it is not there yet, and tried again. `failed`: it is not tried again. `url` is
    its address there without a signature, null before the image is made; `detail` says why the last attempt failed.
    """

    status: StoreStatus
    url: str | None
    detail: str | None


class JobError(Schema):
    """The reason why a job failed: a stable `code`, and a `detail` that tells a person what to do."""

    code: str
    detail: str


class Jobs(Schema):
    """A page of jobs, newest first; `more` says that there are others behind it."""

    jobs: list[JobInfo]
    more: bool
