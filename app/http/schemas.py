"""What the API takes and gives. JSON is camelCase."""

import math
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, Strict, field_validator
from pydantic.alias_generators import to_camel

from cutout.app.billing.pricing import CREDITS, LARGEST_BATCH, RUPIAH_PER_CREDIT, Discount, Plan, Price
from cutout.app.db.tables import Job, LedgerEntry, Movement, PaidBy, Status
from cutout.app.jobs.model_status import Served
from cutout.app.jobs.queue import WorkerInfo
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options, parse_colour
from cutout.inference.scheduling.circuit_breaker import Breaker, State
from cutout.inference.tiers import Recipe, Tier

# PostgreSQL keeps no NUL.
NO_NUL = "^[^\0]*$"
LONGEST_WORD = 50


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("give a time between the years 1 and 9999 in UTC") from None


# As a caller writes one.
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Schema(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Body(Schema):
    """Base of what callers send as JSON: a number is a number, and a field of another name is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=False, validate_by_alias=True)


# Which JSON has as text.
TierBody = Annotated[Tier, Strict(False)]
IdBody = Annotated[uuid.UUID, Strict(False)]


class OptionsForm(BaseModel):
    """The fields that say what to make of a photo. A field of another name is an error, not a silent default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tier: Tier = Tier.BASIC
    format: Annotated[Format | None, Field(description="default: what `Accept` names, else `png`")] = None
    mask_only: Annotated[bool, Field(description="the alpha itself, as a grey picture")] = False
    # An error repeats it, and shall not repeat a picture that was sent in its place.
    background: Annotated[
        str | None,
        Field(max_length=LONGEST_WORD, description="an opaque colour, such as `white` or `#ffffff`"),
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="of WebP, AVIF and JPEG")] = 90

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str | None) -> str | None:
        try:
            parse_colour(value or "white")
        except InvalidOptions as error:
            raise ValueError(str(error)) from None
        return value

    def options(self, accepted: Format | None = None) -> Options:
        """Return what is asked for; `accepted` is the format where none is named."""
        return Options(
            tier=self.tier,
            format=self.format or accepted or Format.PNG,
            mask_only=self.mask_only,
            background=parse_colour(self.background) if self.background else None,
            quality=self.quality,
        )


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


class DiscountInfo(Schema):
    """Percent off a batch of `first` to `last` images."""

    first: int
    last: int
    percent: int

    @classmethod
    def of(cls, discount: Discount) -> "DiscountInfo":
        return cls(first=discount.first, last=discount.last, percent=discount.percent)


class PlanInfo(Schema):
    """A subscription on offer."""

    price_rupiah: int
    removals_per_day: int
    tiers: list[Tier]
    professional_per_day: int | None

    @classmethod
    def of(cls, plan: Plan) -> "PlanInfo":
        return cls(
            price_rupiah=plan.price_rupiah,
            removals_per_day=plan.removals_per_day,
            tiers=list(plan.tiers),
            professional_per_day=plan.professional_per_day,
        )


class Pricing(Schema):
    """Tiers, discounts and plans."""

    rupiah_per_credit: int
    tiers: dict[Tier, TierInfo]
    discounts: list[DiscountInfo]
    plans: dict[str, PlanInfo]


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


class PriceRequest(Body, json_schema_extra={"examples": [{"tier": "standard", "imageCount": 100}]}):
    """What to price."""

    tier: TierBody
    image_count: int = Field(ge=1, le=LARGEST_BATCH)


class PriceInfo(Schema):
    """The price of one image or a batch, in credits and in rupiah."""

    tier: Tier
    image_count: int
    credits_per_image: int
    total_credits: int
    discount_percent: int
    discount_credits: int
    final_credits: int
    final_rupiah: int

    @classmethod
    def of(cls, tier: Tier, price: Price) -> "PriceInfo":
        return cls(
            tier=tier,
            image_count=price.images,
            credits_per_image=price.per_image,
            total_credits=price.total,
            discount_percent=price.percent,
            discount_credits=price.discount,
            final_credits=price.final,
            final_rupiah=price.final * RUPIAH_PER_CREDIT,
        )


class Entry(Schema):
    """A movement of credits: a hold takes them, a charge makes that final, a release gives them back."""

    id: int
    movement: Movement
    credits: int
    key: str
    note: str
    created_at: datetime

    @classmethod
    def of(cls, entry: LedgerEntry) -> "Entry":
        return cls(
            id=entry.id,
            movement=entry.movement,
            credits=entry.credits,
            key=entry.key,
            note=entry.note,
            created_at=entry.created_at,
        )


class Credits(Schema):
    """What a user has, and a page of what became of it; `before` of the next page is the last entry's `id`."""

    balance: int
    entries: list[Entry]


class Grant(
    Body,
    json_schema_extra={
        "examples": [
            {
                "userId": "9b0f6a52-6a3e-4a55-9d65-0d1c1f2b7c11",
                "credits": 500,
                "key": "invoice-7",
                "note": "paid",
            }
        ]
    },
):
    """Credits for a user, once by `key`: the payment they were bought with, say."""

    user_id: IdBody
    credits: int = Field(gt=0, le=1_000_000_000)
    key: str = Field(min_length=1, max_length=120, pattern=NO_NUL)
    note: str = Field("", max_length=255, pattern=NO_NUL)


class Granted(Schema):
    """Whether credits were given now, or had been by the same key; and what the user has."""

    granted: bool
    balance: int


class QueueState(Schema):
    """Of the queue of batches: whether it answers, how many of their photos wait, and how many batches have not ended."""

    answers: bool
    waiting: int
    batches: int


class WorkerTier(Schema):
    """What serves a tier on a worker."""

    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool


class Worker(Schema):
    """A worker that is alive. `breaker` is of its calls to networks elsewhere, null where they are there."""

    name: str
    version: str
    device: str
    queues: list[str]
    tiers: dict[Tier, WorkerTier]
    breaker: State | None

    @classmethod
    def of(cls, worker: WorkerInfo) -> "Worker":
        return cls(
            name=worker.name,
            version=worker.version,
            device=worker.device,
            queues=list(worker.queues),
            tiers={tier: WorkerTier(**asdict(served)) for tier, served in worker.tiers.items()},
            breaker=worker.breaker,
        )


class RemoteState(Schema):
    """Of networks elsewhere: whether calls go there (`closed`), none does for `retryAfter` seconds (`open`), or one is
    tried (`half-open`).
    """

    breaker: State
    retry_after: int | None

    @classmethod
    def of(cls, breaker: Breaker) -> Self:
        state = breaker.state
        return cls(breaker=state, retry_after=math.ceil(breaker.wait) if state == "open" else None)


class HealthProblem(Schema):
    """Something that is wrong: a code as errors have them, or `NO_WORKER`, and what to do."""

    code: str
    detail: str


class Health(Schema):
    """Whether pictures can be made here, and with what. `queue` is null where there is none, or the database is away;
    `remote` where networks run on this host. `problems` is empty where all is well.
    """

    status: Literal["ok", "degraded"]
    version: str
    schema_revision: str | None
    device: str
    tiers: dict[Tier, TierInfo]
    remote: RemoteState | None
    queue: QueueState | None
    workers: list[Worker]
    problems: list[HealthProblem]
