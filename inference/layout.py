"""How the cut-out is laid out: transparent, or on a background colour."""

import numpy as np
from PIL import ImageColor

from inference.errors import InvalidOptions
from inference.photo import Pixels

Colour = tuple[int, int, int]

# Blended strip by strip, so that the wider numbers of a large picture need no memory to speak of.
STRIP_ROWS = 128


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
    out = np.empty_like(rgb)
    behind = np.array(colour, np.uint16)
    for top in range(0, len(rgb), STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS)
        weight = alpha[strip, :, None].astype(np.uint16)
        # Never past 255 × 255 + 127, so 16 bits hold it; + 127 rounds.
        out[strip] = (rgb[strip] * weight + behind * (255 - weight) + 127) // 255
    return out


def transparent(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Join uint8 [H,W,3] and [H,W] to RGBA, uint8 [H,W,4], straight alpha.

    What is fully transparent is blackened, so that the file does not carry the removed background along.
    The colours of every pixel that shows come back unchanged, bit for bit.
    """
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    rgba[..., :3] = rgb
    rgba[..., 3] = alpha
    rgba.view(np.uint32)[..., 0][alpha == 0] = 0  # a pixel's four bytes at once
    return rgba
