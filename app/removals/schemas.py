"""The response documents about prices, with the model that serves each tier, and about presets."""

from pydantic.alias_generators import to_camel

from cutout.app.billing.schemas import DiscountInfo, PlanInfo
from cutout.app.core.schema import Schema
from cutout.app.jobs.schemas import TierInfo
from cutout.inference.imaging.geometry import parse_canvas
from cutout.inference.presets import Preset
from cutout.inference.tiers import Tier


class Pricing(Schema):
    """Tiers, discounts and plans."""

    rupiah_per_credit: int
    tiers: dict[Tier, TierInfo]
    discounts: list[DiscountInfo]
    plans: dict[str, PlanInfo]


class PresetInfo(Schema):
    """A preset: a name for the `options` that it sets.

    `width` and `height` are those of its canvas, in pixels; null where the result keeps the size that it has. `background`
    is null where it sets none. `source` is the page with the requirements, null without one; `asks` says what it asks
    for, and `verified` whether all of that was read on the page itself; it is null without a source.
    """

    name: str
    title: str
    width: int | None
    height: int | None
    background: str | None
    source: str | None
    asks: str
    verified: bool | None
    options: dict[str, str | int | float | bool]

    @classmethod
    def of(cls, preset: Preset) -> "PresetInfo":
        """Describe a preset."""
        canvas = preset.values.canvas
        width, height = (canvas and parse_canvas(canvas)) or (None, None)
        return cls(
            name=preset.name,
            title=preset.title,
            width=width,
            height=height,
            background=preset.values.background,
            source=preset.source or None,
            asks=preset.asks,
            verified=preset.verified,
            options={to_camel(name): value for name, value in preset.given.items()},
        )


class PresetList(Schema):
    """The presets, the built-in ones first."""

    presets: list[PresetInfo]
