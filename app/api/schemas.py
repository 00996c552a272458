"""What the API takes and gives. JSON is camelCase."""

from typing import Literal

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from app.services.pricing import CREDITS, Discount, Plan
from app.services.removals import Job
from inference.encode import Format
from inference.engine import Engine
from inference.tiers import Recipe, Tier


class Schema(BaseModel):
    """Base of all answers."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


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
    def by_tier(cls, engine: Engine) -> "dict[Tier, TierInfo]":
        """Describe each tier as it is served on this host."""
        return {
            tier: cls(
                name=tier.value.capitalize(),
                credits=CREDITS[tier],
                model=serving.choice.checkpoint.name,
                backend=serving.runner.backend,
                recipe=serving.choice.recipe,
                wanted=serving.choice.wanted,
                substitute=serving.choice.substitute,
            )
            for tier, serving in engine.serving.items()
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
    """A removal. `resultUrl` gives the picture; `processingMs` is the whole time, `stageMs` by stage."""

    job_id: str
    status: Literal["completed"] = "completed"
    tier: Tier
    model: str
    backend: str
    substitute: bool
    format: Format
    width: int
    height: int
    no_foreground: bool
    notes: list[str]
    processing_ms: int
    stage_ms: dict[str, int]
    result_url: str

    @classmethod
    def of(cls, job: Job, result_url: str) -> "JobInfo":
        cutout = job.cutout
        return cls(
            job_id=job.job_id,
            tier=cutout.tier,
            model=cutout.checkpoint,
            backend=cutout.backend,
            substitute=cutout.substitute,
            format=cutout.format,
            width=cutout.width,
            height=cutout.height,
            no_foreground=cutout.no_foreground,
            notes=list(cutout.notes),
            processing_ms=job.milliseconds,
            stage_ms={stage: round(1000 * seconds) for stage, seconds in cutout.seconds.items()},
            result_url=result_url,
        )


class Health(Schema):
    """Whether pictures can be made here, and with what."""

    status: Literal["ok"]
    version: str
    device: str
    tiers: dict[Tier, TierInfo]
