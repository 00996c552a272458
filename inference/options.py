"""What a caller may ask for."""

from dataclasses import dataclass

from inference.encode import Format
from inference.layout import Colour
from inference.tiers import Tier


@dataclass(frozen=True)
class Options:
    """What to make of a photo.

    `mask_only` gives the alpha itself as a grey picture. `background` lays the cut-out on a colour;
    a format without transparency takes white where none is given. `quality`, 1…100, is for the
    formats that lose something: WebP, AVIF, JPEG.
    """

    tier: Tier = Tier.BASIC
    format: Format = Format.PNG
    mask_only: bool = False
    background: Colour | None = None
    quality: int = 90


DEFAULT_OPTIONS = Options()
