"""What a removal costs, and the plans on offer."""

from dataclasses import dataclass

from cutout.inference.tiers import Tier

RUPIAH_PER_CREDIT = 100

CREDITS: dict[Tier, int] = {Tier.BASIC: 3, Tier.STANDARD: 8, Tier.PROFESSIONAL: 15, Tier.INDUSTRY: 25}


@dataclass(frozen=True)
class Discount:
    """Percent off a batch of `first` to `last` images."""

    first: int
    last: int
    percent: int


SMALLEST_BATCH, LARGEST_BATCH = 2, 500
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


@dataclass(frozen=True)
class Price:
    """Of a batch, in credits. The discount is rounded down to whole credits."""

    per_image: int
    images: int
    percent: int

    @property
    def total(self) -> int:
        return self.per_image * self.images

    @property
    def discount(self) -> int:
        return self.total * self.percent // 100

    @property
    def final(self) -> int:
        return self.total - self.discount

    def share(self, index: int) -> int:
        """Return what image `index`, from 0, pays of the final price; the shares of all sum to it exactly."""
        return (index + 1) * self.final // self.images - index * self.final // self.images


def least_price(tier: Tier | None, images: int) -> int:
    """Return the least that a batch of `images` or more can cost, in credits; without a tier, in the cheapest.

    More images may cost less, where a greater discount begins.
    """
    first = min(max(images, SMALLEST_BATCH), LARGEST_BATCH)
    counts = [first, *(discount.first for discount in DISCOUNTS if discount.first > first)]
    tiers = list(Tier) if tier is None else [tier]
    return min(price(one, count).final for one in tiers for count in counts)


def price(tier: Tier, images: int) -> Price:
    """Price one image, or a batch.

    Raises:
        ValueError: there is no such batch.

    """
    if not 1 <= images <= LARGEST_BATCH:
        raise ValueError(f"A batch has {SMALLEST_BATCH} to {LARGEST_BATCH} images, not {images}.")
    percent = next((one.percent for one in DISCOUNTS if one.first <= images <= one.last), 0)
    return Price(CREDITS[tier], images, percent)
