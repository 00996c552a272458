"""Payments and costs."""

from decimal import Decimal
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from cutout.app.config.base import Secret, SettingsGroup
from cutout.inference.tiers import SOLD, Tier

# A year. A result is kept for days, and a time of any length could not be computed with.
LONGEST_HOURS = 8784


class BillingSettings(SettingsGroup):
    """Payments and costs."""

    title: ClassVar[str] = "Billing"

    payments: Literal["off", "manual", "signed"] | None = Field(
        None,
        description="who confirms that a plan or credits are paid: `manual` (default) an admin, `signed` the "
        "signature of the platform, `off` nobody (default and allowed with `CUTOUT_AUTH=off` only)",
    )
    payments_secret: Secret | None = Field(
        None,
        description="the secret with which the platform signs payments, 32 bytes or more; `signed` needs it",
    )
    free_refine_hours: float = Field(
        24,
        ge=0,
        le=LONGEST_HOURS,
        description="hours after a removal in which refining its result costs nothing; later it costs the same",
    )
    cost_per_image_rupiah: Annotated[dict[Tier, Annotated[Decimal, Field(ge=0)]], NoDecode] = Field(
        "0",
        validate_default=True,
        description="what a picture costs you, for `/admin/stats`: one number for those of the sold "
        "tiers, or one for each tier, as in `basic=10,standard=20,professional=25,industry=40,preview=1`; "
        "`preview` is 0 where it is left out",
    )

    @field_validator("cost_per_image_rupiah", mode="before")
    @classmethod
    def _read_costs(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if "=" not in value:
            return {Tier.PREVIEW: "0"} | dict.fromkeys(SOLD, value)
        costs = {Tier.PREVIEW: "0"} | dict(
            pair.partition("=")[::2] for pair in value.replace(" ", "").split(",")
        )
        if set(costs) != set(Tier):
            raise ValueError(
                f"give one number, or one for each of {', '.join(SOLD)}, as in basic=10,standard=20"
            )
        return costs
