"""The four tiers: which checkpoint each wants, which may stand in for it, and what is done with the mask."""

from dataclasses import dataclass
from enum import StrEnum

from inference.errors import ModelUnavailable, WeightsUnavailable
from inference.folder import ModelsFolder
from models import catalog
from models.catalog import Checkpoint


class Tier(StrEnum):
    """What a removal is asked and billed for."""

    BASIC = "basic"
    STANDARD = "standard"
    PROFESSIONAL = "professional"
    INDUSTRY = "industry"


class Recipe(StrEnum):
    """What is done between the network's mask and the finished cut-out."""

    MASK = "mask"  # brought back to full size


@dataclass(frozen=True)
class TierRule:
    """`checkpoints` in the order of preference; the first is what the tier promises."""

    checkpoints: tuple[str, ...]
    recipe: Recipe


# RMBG-2.0's network and the dearer recipes are not built yet: until then those tiers are served by the open
# weights with basic's recipe, and every place that names a tier's model says so.
TIERS: dict[Tier, TierRule] = {
    Tier.BASIC: TierRule(("rmbg-1.4", "isnet-general"), Recipe.MASK),
    Tier.STANDARD: TierRule(("rmbg-2.0", "isnet-general"), Recipe.MASK),
    Tier.PROFESSIONAL: TierRule(("rmbg-2.0", "isnet-general"), Recipe.MASK),
    Tier.INDUSTRY: TierRule(("rmbg-2.0", "isnet-general"), Recipe.MASK),
}


@dataclass(frozen=True)
class Choice:
    """The checkpoint that serves a tier on this host, and why those before it do not."""

    tier: Tier
    checkpoint: Checkpoint
    passed_over: tuple[str, ...]  # one reason a checkpoint, in order

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
    for name in TIERS[tier].checkpoints:
        try:
            checkpoint = catalog.find(name)
            folder.check(checkpoint)
        except catalog.UnknownCheckpoint:
            reasons.append(f"{name}: its network is not part of this version yet")
        except ModelUnavailable as error:
            reasons.append(str(error))
        else:
            return Choice(tier, checkpoint, tuple(reasons))
    raise WeightsUnavailable(f"No checkpoint for tier {tier} is ready: " + "; ".join(reasons))
