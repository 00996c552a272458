"""How the cut-out is laid out: transparent, or on a background colour."""

import torch
from torch import Tensor

from inference.options import Colour

# Blended strip by strip, so that the wider numbers of a large picture need no memory to speak of.
STRIP_ROWS = 128


def on_background(rgb: Tensor, alpha: Tensor, colour: Colour) -> Tensor:
    """Lay `rgb`, uint8 [H,W,3], under `alpha`, uint8 [H,W], on a plain colour: uint8 [H,W,3]."""
    height, width = alpha.shape
    out = torch.empty_like(rgb)
    # Rows of numbers, colour by colour: what has three to a row, torch's CPU kernels do one by one.
    behind = torch.tensor(colour, dtype=torch.float32, device=rgb.device).repeat(width)
    for top in range(0, height, STRIP_ROWS):
        strip = slice(top, top + STRIP_ROWS)
        weight = alpha[strip, :, None].expand(-1, -1, 3).flatten(1) / 255
        mixed = behind.lerp(rgb[strip].flatten(1).float(), weight).round_()
        out[strip] = mixed.unflatten(1, (width, 3))
    return out


def transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Join uint8 [H,W,3] and [H,W] to RGBA, uint8 [H,W,4], straight alpha.

    What is fully transparent is blackened, so that the file does not carry the removed background along.
    The colours of every pixel that shows come back unchanged, bit for bit.
    """
    rgba = torch.cat([rgb, alpha[..., None]], 2)
    rgba.view(torch.int32)[..., 0].masked_fill_(alpha == 0, 0)  # a pixel's four bytes at once
    return rgba
