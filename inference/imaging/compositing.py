"""Compositing of a cut-out: with transparency, or on a background colour."""

import torch
from torch import Tensor

from cutout.inference.imaging.types import Colour

# Pictures are blended in strips of this many pixels, so that the float copies need little memory, whatever the shape.
STRIP_PIXELS = 1 << 19


def on_background(rgb: Tensor, alpha: Tensor, colour: Colour) -> Tensor:
    """Composite `rgb`, uint8 [H,W,3], with `alpha`, uint8 [H,W], on a plain colour; return uint8 [H,W,3]."""
    # Work on flat tensors: torch's CPU kernels are not vectorised for a last dimension of three.
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
    """Combine `rgb`, uint8 [H,W,3], and `alpha`, uint8 [H,W], to RGBA with straight alpha, uint8 [H,W,4].

    Fully transparent pixels are set to black, so that the file does not contain the removed background. The colours of
    all other pixels are returned unchanged, bit for bit.
    """
    rgba = torch.cat([rgb, alpha[..., None]], 2)
    rgba.view(torch.int32)[..., 0].masked_fill_(alpha == 0, 0)  # all four bytes of a pixel at once
    return rgba
