"""Prices of removals, and the available plans."""

from dataclasses import dataclass

from cutout.inference.tiers import SOLD, Tier

RUPIAH_PER_CREDIT = 100

CREDITS: dict[Tier, int] = {
    Tier.BASIC: 3,
    Tier.STANDARD: 8,
    Tier.PROFESSIONAL: 15,
    Tier.INDUSTRY: 25,
    Tier.PREVIEW: 0,
}


@dataclass(frozen=True)
class Discount:
    """Discount in percent for a batch of `first` to `last` images."""

    first: int
    last: int
    percent: int


SMALLEST_BATCH, LARGEST_BATCH = 2, 500
# More than that a host cannot allow (CUTOUT_MAX_FRAMES).
MOST_FRAMES = 10_000
DISCOUNTS = (Discount(20, 50, 5), Discount(51, 100, 10), Discount(101, 200, 15), Discount(201, 500, 20))


@dataclass(frozen=True)
class Plan:
    """A subscription plan: its price per month, and its quota per day (in UTC)."""

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
    """Price of one image, of each of its `frames`, or of a batch, in credits. The discount is rounded down to whole credits."""

    per_image: int
    images: int
    percent: int
    frames: int = 1

    @property
    def total(self) -> int:
        return self.per_image * self.images * self.frames

    @property
    def discount(self) -> int:
        return self.total * self.percent // 100

    @property
    def final(self) -> int:
        return self.total - self.discount

    def share(self, index: int) -> int:
        """Return the share of image `index`, from 0, in the final price; the shares of all images sum to it exactly."""
        return (index + 1) * self.final // self.images - index * self.final // self.images


def least_price(tier: Tier | None, images: int) -> int:
    """Return the lowest possible price of a batch of at least `images`, in credits, in any sold tier if `tier` is None.

    More images may cost less, because a greater discount may begin there.
    """
    first = min(max(images, SMALLEST_BATCH), LARGEST_BATCH)
    counts = [first, *(discount.first for discount in DISCOUNTS if discount.first > first)]
    tiers = SOLD if tier is None else [tier]
    return min(price(one, count).final for one in tiers for count in counts)


def price(tier: Tier, images: int, frames: int = 1) -> Price:
    """Return the price of one image, with all its frames if it is an animation, or of a batch.

    Raises:
        ValueError: the number of images is out of range.

    """
    if not 1 <= images <= LARGEST_BATCH:
        raise ValueError(f"A batch has {SMALLEST_BATCH} to {LARGEST_BATCH} images, not {images}.")
    percent = next((one.percent for one in DISCOUNTS if one.first <= images <= one.last), 0)
    return Price(CREDITS[tier], images, percent, frames)
