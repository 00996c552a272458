"""The four tiers: which checkpoint each wants, which may stand in for it, and what is done with the mask."""

from dataclasses import dataclass
from enum import StrEnum

from cutout.inference.errors import ModelUnavailable, WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models import catalog
from cutout.models.catalog import Checkpoint


class Tier(StrEnum):
    """What a removal is asked and billed for."""

    BASIC = "basic"
    STANDARD = "standard"
    PROFESSIONAL = "professional"
    INDUSTRY = "industry"


class Recipe(StrEnum):
    """What is done between the network's mask and the finished cut-out."""

    MASK = "mask"  # brought back to full size
    CLEAN = "clean"  # and the old background's colour taken out of the edge
    REFINED = "refined"  # and the alpha brought to full size along the photo's own detail
    SECOND_LOOK = "second-look"  # and the subject shown to the network again, as large as it can see

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
    """`checkpoints` in the order of preference; the first is what the tier promises."""

    checkpoints: tuple[str, ...]
    recipe: Recipe


# After the promised one the open ones of its architecture: those that are only there because somebody pulled
# them go first. The last serves every host.
RMBG_2 = (
    "rmbg-2.0",
    "birefnet-hr",
    "birefnet-dynamic",
    "birefnet-matting",
    "birefnet-portrait",
    "birefnet-lite",
    "birefnet-general",
    "isnet-general",
)

# Each recipe does what the one before does, and more.
TIERS: dict[Tier, TierRule] = {
    Tier.BASIC: TierRule(("rmbg-1.4", "isnet-general"), Recipe.MASK),
    Tier.STANDARD: TierRule(RMBG_2, Recipe.CLEAN),
    Tier.PROFESSIONAL: TierRule(RMBG_2, Recipe.REFINED),
    Tier.INDUSTRY: TierRule(RMBG_2, Recipe.SECOND_LOOK),
}


@dataclass(frozen=True)
class Choice:
    """The checkpoint that serves a tier on this host, and why those before it do not."""

    tier: Tier
    checkpoint: Checkpoint
    passed_over: tuple[str, ...]  # in order, a reason for each that some host fetches unasked

    @property
    def wanted(self) -> str:
        return TIERS[self.tier].checkpoints[0]

    @property
    def recipe(self) -> Recipe:
        return TIERS[self.tier].recipe

    @property
    def substitute(self) -> bool:
        return self.checkpoint.name != self.wanted


def choose(tier: Tier, folder: ModelsFolder) -> Choice:
    """Pick the first of the tier's checkpoints whose weights are ready in `folder`.

    Raises:
        WeightsUnavailable: none is; the message names each one's reason and fix.

    """
    reasons: list[str] = []
    for checkpoint in map(catalog.find, TIERS[tier].checkpoints):
        try:
            folder.check(checkpoint)
        except ModelUnavailable as error:
            if checkpoint.fetch != "never":
                reasons.append(str(error))
        else:
            return Choice(tier, checkpoint, tuple(reasons))
    raise WeightsUnavailable(f"No checkpoint for tier {tier} is ready: " + "; ".join(reasons))
