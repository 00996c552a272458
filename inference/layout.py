"""How the cut-out is laid out: for now, on a background colour."""

import numpy as np
from PIL import ImageColor

from inference.errors import InvalidOptions
from inference.photo import Pixels

Colour = tuple[int, int, int]


def parse_colour(text: str) -> Colour:
    """Read a colour as CSS writes it ("white", "#fff", "#ffffff", "rgb(255,255,255)"), or hex without the #.

    Raises:
        InvalidOptions: it is none.

    """
    for candidate in (text, f"#{text}"):
        try:
            return ImageColor.getrgb(candidate.strip())[:3]
        except ValueError:
            continue
    raise InvalidOptions(f"{text!r} is no colour. Write a name such as white, or hex such as #ffffff.")


def on_background(rgb: Pixels, alpha: Pixels, colour: Colour) -> Pixels:
    """Lay `rgb`, uint8 [H,W,3], under `alpha`, uint8 [H,W], on a plain colour: uint8 [H,W,3]."""
    weight = alpha[..., None].astype(np.uint16)
    blended = rgb * weight + np.array(colour, np.uint16) * (255 - weight) + 127
    return (blended // 255).astype(np.uint8)


def without_background(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Blacken what is fully transparent, so that the file does not carry the removed background along.

    The colours of every pixel that shows are returned unchanged, bit for bit.
    """
    return np.where(alpha[..., None] > 0, rgb, np.uint8(0))
