"""The options of a background removal."""

import re
from dataclasses import dataclass

from PIL import ImageColor

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.types import Colour
from cutout.inference.tiers import Tier

PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True)
class Options:
    """The options of one background removal.

    `mask_only` returns the alpha matte itself as a grey picture. `background` is a colour to put behind the cut-out; a
    format without transparency defaults to white. `quality`, 1…100, applies to the lossy formats: WebP, AVIF, JPEG.
    """

    tier: Tier = Tier.BASIC
    format: Format = Format.PNG
    mask_only: bool = False
    background: Colour | None = None
    quality: int = 90


DEFAULT_OPTIONS = Options()


def parse_colour(text: str) -> Colour:
    """Parse a colour in CSS notation ("white", "#fff", "#ffffff", "rgb(255,255,255)"), or as hex without the #.

    Raises:
        InvalidOptions: the text is not a colour, or the colour is not opaque.

    """
    for candidate in (text, f"#{text}"):
        try:
            red, green, blue, *opacity = ImageColor.getrgb(candidate.strip())
        except ValueError:
            continue
        percents = map(float, PERCENT.findall(candidate))
        if (
            max(red, green, blue, *opacity) > 255
            or min(red, green, blue) < 0
            or max(percents, default=0) > 100
        ):
            break  # Pillow accepts rgb(999,0,0) as it is, and reads hsl(0,200%,0%) as black
        if opacity not in ([], [255]):
            raise InvalidOptions(
                f"{text!r} is not opaque, but a background must be. Leave it out for a transparent background."
            )
        return red, green, blue
    raise InvalidOptions(f"{text!r} is not a colour. Write a name such as white, or hex such as #ffffff.")
