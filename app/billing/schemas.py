"""Request and response schemas for prices and credits."""

import uuid
from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, Strict, model_validator

from cutout.app.billing.payments import Purchase
from cutout.app.billing.pricing import LARGEST_BATCH, MOST_FRAMES, RUPIAH_PER_CREDIT, Discount, Plan, Price
from cutout.app.core.schema import Schema
from cutout.app.db.tables import LedgerEntry, Movement, PaymentStatus
from cutout.app.http.schemas import NO_NUL, Body, IdBody
from cutout.inference.tiers import SOLD, Tier

# Not strict, because JSON can represent a tier only as text.
TierBody = Annotated[Tier, Strict(False)]


class DiscountInfo(Schema):
    """Discount in percent for a batch of `first` to `last` images."""

    first: int
    last: int
    percent: int

    @classmethod
    def of(cls, discount: Discount) -> "DiscountInfo":
        return cls(first=discount.first, last=discount.last, percent=discount.percent)


class PlanInfo(Schema):
    """An available subscription plan, with its price per month and its quota per day (in UTC)."""

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


class PriceRequest(Body, json_schema_extra={"examples": [{"tier": "standard", "imageCount": 100}]}):
    """The tier and the number of images to price; or one image, and the number of its frames."""

    tier: TierBody
    image_count: int = Field(ge=1, le=LARGEST_BATCH)
    frames: int = Field(1, ge=1, le=MOST_FRAMES, description="of an animation that is cut out frame by frame")

    @model_validator(mode="after")
    def _check_batch(self) -> Self:
        if self.image_count > 1 and self.tier not in SOLD:
            raise ValueError(f"there is no batch in {self.tier}; choose one of: {', '.join(SOLD)}")
        if self.frames > 1 and self.image_count > 1:
            raise ValueError("a batch takes the first frame of an animation; price one image with its frames")
        if self.frames > 1 and self.tier not in SOLD:
            raise ValueError(
                f"the tier {self.tier} shows the first frame only; choose one of: {', '.join(SOLD)}"
            )
        return self


class PriceInfo(Schema):
    """The price of one image, all frames of an animation or a batch, in credits and in rupiah."""

    tier: Tier
    image_count: int
    frames: int
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
            frames=price.frames,
            credits_per_image=price.per_image,
            total_credits=price.total,
            discount_percent=price.percent,
            discount_credits=price.discount,
            final_credits=price.final,
            final_rupiah=price.final * RUPIAH_PER_CREDIT,
        )


class Entry(Schema):
    """A movement of credits in the ledger. A grant adds credits, a hold takes them before work begins, a charge makes
    the hold final, and a release returns credits.
    """

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
    """The user's balance and a page of their ledger. For the next page, set `before` to the `id` of the last entry."""

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
    """Credits to grant to a user. Each `key`, for example an invoice number, grants credits only once."""

    user_id: IdBody
    credits: int = Field(gt=0, le=1_000_000_000)
    key: str = Field(min_length=1, max_length=120, pattern=NO_NUL)
    note: str = Field("", max_length=255, pattern=NO_NUL)


class Granted(Schema):
    """Result of a grant. `granted` is false if the same key was used before; `balance` is the user's balance."""

    granted: bool
    balance: int


class PurchaseInfo(Schema):
    """A purchase. While its status is `pending`, nothing is delivered yet. For a confirmed purchase of a plan,
    `startsAt` and `endsAt` are the start and end of the month.
    """

    id: uuid.UUID
    payment_id: str
    plan: str | None
    credits: int | None
    rupiah: int
    status: PaymentStatus
    created_at: datetime
    confirmed_at: datetime | None
    starts_at: datetime | None
    ends_at: datetime | None

    @classmethod
    def of(cls, purchase: Purchase) -> "PurchaseInfo":
        payment, month = purchase.payment, purchase.month
        return cls(
            id=payment.id,
            payment_id=payment.payment_id,
            plan=payment.plan,
            credits=payment.credits,
            rupiah=payment.rupiah,
            status=payment.status,
            created_at=payment.created_at,
            confirmed_at=payment.confirmed_at,
            starts_at=month.starts_at if month else None,
            ends_at=month.ends_at if month else None,
        )
