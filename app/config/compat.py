"""The APIs of other services."""

from typing import Annotated, ClassVar

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from cutout.app.config.base import SettingsGroup
from cutout.inference.tiers import Tier

SMALL_SIZES = ("preview", "small", "regular")
# The sizes of remove.bg and Photoroom, and how rembg is asked to refine.
TIERS = dict.fromkeys(SMALL_SIZES, Tier.BASIC) | {
    "medium": Tier.PROFESSIONAL,
    "hd": Tier.PROFESSIONAL,
    "full": Tier.PROFESSIONAL,
    "4k": Tier.PROFESSIONAL,
    "50mp": Tier.PROFESSIONAL,
    "auto": Tier.PROFESSIONAL,
    "rembg": Tier.BASIC,
    "rembg-dc": Tier.STANDARD,
    "rembg-a": Tier.PROFESSIONAL,
}


class CompatSettings(SettingsGroup):
    """The APIs of other services."""

    title: ClassVar[str] = "APIs of other services"

    compat_tiers: Annotated[dict[str, Tier], NoDecode] = Field(
        "",
        validate_default=True,
        description="the tier of each size of [remove.bg and Photoroom](compat.md), and of `rembg`, `rembg-dc` and "
        "`rembg-a`, such as `full=industry,rembg=standard`; default: `basic` for `preview`, `small`, `regular` and "
        "`rembg`, `standard` for `rembg-dc`, `professional` for all others",
    )
    compat_improve: bool = Field(
        True,
        description="answer `POST /v1.0/improve`, as some clients of remove.bg call it, and keep nothing of what it "
        "sends; else it is 404",
    )

    @field_validator("compat_tiers", mode="before")
    @classmethod
    def _read_tiers(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        chosen = dict(pair.partition("=")[::2] for pair in value.lower().replace(" ", "").split(",") if pair)
        for name, tier in chosen.items():
            if name not in TIERS or tier not in set(Tier):
                raise ValueError(
                    f"{name}={tier} is not possible; give one of {', '.join(TIERS)} and, after an =, one of"
                    f" {', '.join(Tier)}"
                )
        return TIERS | chosen
