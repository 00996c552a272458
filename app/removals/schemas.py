"""The response document about prices, with the model that serves each tier."""

from cutout.app.billing.schemas import DiscountInfo, PlanInfo
from cutout.app.core.schema import Schema
from cutout.app.jobs.schemas import TierInfo
from cutout.inference.tiers import Tier


class Pricing(Schema):
    """Tiers, discounts and plans."""

    rupiah_per_credit: int
    tiers: dict[Tier, TierInfo]
    discounts: list[DiscountInfo]
    plans: dict[str, PlanInfo]
