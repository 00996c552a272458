"""What a caller may ask for."""

import re
from dataclasses import dataclass

from PIL import ImageColor

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.compositing import Colour
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Tier

PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


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


def parse_colour(text: str) -> Colour:
    """Read a colour as CSS writes it ("white", "#fff", "#ffffff", "rgb(255,255,255)"), or hex without the #.

    Raises:
        InvalidOptions: it is none, or one that shows through.

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
            break  # Pillow reads rgb(999,0,0) as it stands, and hsl(0,200%,0%) as black
        if opacity not in ([], [255]):
            raise InvalidOptions(
                f"{text!r} shows through, and a background does not. Leave it out for a transparent one."
            )
        return red, green, blue
    raise InvalidOptions(f"{text!r} is no colour. Write a name such as white, or hex such as #ffffff.")
