"""The tiers: the preferred checkpoint of each, its substitutes, and how the mask is post-processed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cutout.inference.errors import ModelUnavailable, WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models import catalog
from cutout.models.catalog import Checkpoint


class Tier(StrEnum):
    """The quality level that a removal is requested and billed at."""

    BASIC = "basic"
    STANDARD = "standard"
    PROFESSIONAL = "professional"
    INDUSTRY = "industry"
    PREVIEW = "preview"  # a small picture at once, for nothing


# The tiers that are sold, from the cheapest to the dearest.
SOLD = (Tier.BASIC, Tier.STANDARD, Tier.PROFESSIONAL, Tier.INDUSTRY)


class Recipe(StrEnum):
    """The processing steps between the network's mask and the finished cut-out. Each recipe includes the one before."""

    MASK = "mask"  # enlarge the mask to full size
    CLEAN = "clean"  # also remove the old background's colour from the edge
    REFINED = "refined"  # also refine the alpha along the photo's detail
    SECOND_LOOK = "second-look"  # also run the network again on a crop of the subject

    @property
    def cleans(self) -> bool:
        return self is not Recipe.MASK

    @property
    def refines(self) -> bool:
        return self in (Recipe.REFINED, Recipe.SECOND_LOOK)

    @property
    def looks_twice(self) -> bool:
        return self is Recipe.SECOND_LOOK


@dataclass(frozen=True)
class TierRule:
    """The rule of a tier: its `checkpoints` in order of preference, of which the first is the promised one.

    A larger photo is scaled down to `most_pixels` before any work; None is no limit.
    """

    checkpoints: tuple[str, ...]
    recipe: Recipe
    most_pixels: int | None = None


# The promised checkpoint comes first, then the open ones of its architecture: those that a host has only if somebody
# pulled them come before the others, and of these the general before the special, the large before the small. ToonOut is
# for drawings, so it serves only a tier whose order names it. The last one is available on every host.
RMBG_2 = (
    "rmbg-2.0",
    "birefnet-hr",
    "birefnet-hr-matting",
    "feynobg",
    "lucida",
    "birefnet-dynamic",
    "birefnet-matting",
    "birefnet-portrait",
    "birefnet-lite-2k",
    "birefnet-lite",
    "birefnet-general",
    "isnet-general",
)

# The recipe of each tier that is sold does all that the one before it does, and more.
TIERS: dict[Tier, TierRule] = {
    Tier.BASIC: TierRule(("rmbg-1.4", "isnet-general"), Recipe.MASK),
    Tier.STANDARD: TierRule(RMBG_2, Recipe.CLEAN),
    Tier.PROFESSIONAL: TierRule(RMBG_2, Recipe.REFINED),
    Tier.INDUSTRY: TierRule(RMBG_2, Recipe.SECOND_LOOK),
    Tier.PREVIEW: TierRule(("u2netp", "isnet-general"), Recipe.MASK, most_pixels=250_000),
}


# The operator's order of a tier's checkpoints, which replaces the one of `TIERS`. Tiers may be left out.
Orders = Mapping[Tier, Sequence[Checkpoint]]
USUAL: Orders = {}
# Serves where nothing else does.
LAST_RESORT = "isnet-general"


@dataclass(frozen=True)
class Choice:
    """The checkpoint that serves a tier on this host, and why the preferred ones before it cannot."""

    tier: Tier
    checkpoint: Checkpoint
    passed_over: tuple[str, ...]  # in order, a reason for each, except those that nobody asked for
    first: str | None = None  # the first checkpoint of the operator's order, if there is one

    @property
    def wanted(self) -> str:
        return self.first or TIERS[self.tier].checkpoints[0]

    @property
    def recipe(self) -> Recipe:
        return TIERS[self.tier].recipe

    @property
    def substitute(self) -> bool:
        return self.checkpoint.name != self.wanted


def candidates(tier: Tier, orders: Orders = USUAL) -> Sequence[Checkpoint]:
    """Return the tier's checkpoints in order of preference.

    Those of `basic` follow those of `preview`: a host that sells cut-outs starts, whatever a preview lacks.
    """
    own = orders.get(tier) or [catalog.find(name) for name in TIERS[tier].checkpoints]
    if tier is Tier.PREVIEW:
        return list(dict.fromkeys([*own, *candidates(Tier.BASIC, orders)]))
    return own


def first_of(tier: Tier, orders: Orders) -> str | None:
    """Return the name of the first checkpoint of the operator's order; None if the tier has its usual one."""
    return orders[tier][0].name if orders.get(tier) else None


def choose(tier: Tier, folder: ModelsFolder, orders: Orders = USUAL) -> Choice:
    """Pick the first of the tier's checkpoints whose weights are ready in `folder`.

    Raises:
        WeightsUnavailable: no checkpoint is ready; the message names the reason and the fix for each.

    """
    reasons: list[str] = []
    first = first_of(tier, orders)
    for checkpoint in candidates(tier, orders):
        try:
            folder.check(checkpoint)
        except ModelUnavailable as error:
            if checkpoint.fetch != "never" or first is not None:
                reasons.append(str(error))
        else:
            return Choice(tier, checkpoint, tuple(reasons), first)
    raise WeightsUnavailable(f"No checkpoint for tier {tier} is ready: " + "; ".join(reasons))
