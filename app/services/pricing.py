"""What a removal costs, and the plans on offer."""

from dataclasses import dataclass

from inference.tiers import Tier

RUPIAH_PER_CREDIT = 100

CREDITS: dict[Tier, int] = {Tier.BASIC: 3, Tier.STANDARD: 8, Tier.PROFESSIONAL: 15, Tier.INDUSTRY: 25}


@dataclass(frozen=True)
class Discount:
    """Percent off a batch of `first` to `last` images."""

    first: int
    last: int
    percent: int


DISCOUNTS = (Discount(20, 50, 5), Discount(51, 100, 10), Discount(101, 200, 15), Discount(201, 500, 20))


@dataclass(frozen=True)
class Plan:
    """A subscription: what it costs a month, and what it allows a day (days are UTC)."""

    price_rupiah: int
    removals_per_day: int
    tiers: tuple[Tier, ...]
    professional_per_day: int | None = None


PLANS: dict[str, Plan] = {
    "starter": Plan(99_000, 50, (Tier.BASIC, Tier.STANDARD)),
    "pro": Plan(299_000, 200, (Tier.BASIC, Tier.STANDARD, Tier.PROFESSIONAL), professional_per_day=50),
}
