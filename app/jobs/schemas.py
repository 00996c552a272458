"""The response documents about jobs, and about what serves each tier."""

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime

from cutout.app.billing.pricing import CREDITS
from cutout.app.core.schema import Schema
from cutout.app.db.tables import Job, PaidBy, Status
from cutout.app.jobs.model_status import Served
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Recipe, Tier


class TierInfo(Schema):
    """A tier, its price, and what serves it on this host. `wanted` differs from `model` for a substitute."""

    name: str
    credits: int
    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool

    @classmethod
    def by_tier(cls, tiers: Mapping[Tier, Served]) -> "dict[Tier, TierInfo]":
        """Describe each tier as it is served."""
        return {
            tier: cls(name=tier.value.capitalize(), credits=CREDITS[tier], **asdict(served))
            for tier, served in tiers.items()
        }


class JobInfo(Schema):
    """A removal, paid of the subscription's quota (with 0 `credits`) or of credits.

    `resultUrl` gives the picture, for a while, to whoever has it; `processingMs` is the whole time. A failed job has
    `error` instead, and cost nothing. One of a batch has its `batchId`, and there a `position`, from 0, and the `name`
    of its photo's file.
    """

    job_id: uuid.UUID
    batch_id: uuid.UUID | None
    position: int | None
    name: str | None
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
    notes: list[str]
    processing_ms: int | None
    stage_ms: dict[str, int] | None
    result_url: str | None
    error: "JobError | None"

    @classmethod
    def of(cls, job: Job, result_url: str | None) -> "JobInfo":
        """Describe a job; its picture's address counts only where there is one."""
        failed = job.status is Status.FAILED
        return cls(
            job_id=job.id,
            batch_id=job.batch_id,
            position=job.position,
            name=job.name,
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
            notes=job.notes or [],
            processing_ms=job.milliseconds,
            stage_ms=job.stage_milliseconds,
            result_url=result_url if job.status is Status.COMPLETED else None,
            error=JobError(code=job.error_code or "", detail=job.error_detail or "") if failed else None,
        )


class JobError(Schema):
    """Why a job failed."""

    code: str
    detail: str


class Jobs(Schema):
    """A page of jobs, the newest first."""

    jobs: list[JobInfo]
