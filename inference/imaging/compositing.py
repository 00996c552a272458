"""How the cut-out is laid out: transparent, or on a background colour."""

import torch
from torch import Tensor

# Red, green and blue, 0…255 each.
Colour = tuple[int, int, int]
# Blended strip by strip, so that the wider numbers of a large picture need no memory to speak of, whatever its shape.
STRIP_PIXELS = 1 << 19


def on_background(rgb: Tensor, alpha: Tensor, colour: Colour) -> Tensor:
    """Lay `rgb`, uint8 [H,W,3], under `alpha`, uint8 [H,W], on a plain colour: uint8 [H,W,3]."""
    # One row of numbers, colour by colour: what has three to a row, torch's CPU kernels do one by one.
    numbers, opacity = rgb.reshape(-1), alpha.reshape(-1)
    out = torch.empty_like(numbers)
    behind = torch.tensor(colour, dtype=torch.float32, device=rgb.device).repeat(
        min(STRIP_PIXELS, len(opacity))
    )
    for start in range(0, len(opacity), STRIP_PIXELS):
        weight = opacity[start : start + STRIP_PIXELS, None].expand(-1, 3).flatten() / 255
        strip = slice(3 * start, 3 * start + len(weight))
        out[strip] = behind[: len(weight)].lerp(numbers[strip].float(), weight).round_()
    return out.view(rgb.shape)


def transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Join uint8 [H,W,3] and [H,W] to RGBA, uint8 [H,W,4], straight alpha.

    What is fully transparent is blackened, so that the file does not carry the removed background along.
    The colours of every pixel that shows come back unchanged, bit for bit.
    """
    rgba = torch.cat([rgb, alpha[..., None]], 2)
    rgba.view(torch.int32)[..., 0].masked_fill_(alpha == 0, 0)  # a pixel's four bytes at once
    return rgba
