"""Compositing of a cut-out: with transparency, or on a background colour."""

import torch
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.imaging.types import Colour

# Pictures are blended in strips of this many pixels, so that the float copies need little memory, whatever the shape, and
# the cores can share them.
STRIP_PIXELS = {"cpu": 1 << 19, "cuda": 1 << 24}


def on_background(rgb: Tensor, alpha: Tensor, colour: Colour) -> Tensor:
    """Composite `rgb`, uint8 [H,W,3], with `alpha`, uint8 [H,W], on a plain colour; return uint8 [H,W,3]."""
    # Work on flat tensors: torch's CPU kernels are not vectorised for a last dimension of three.
    numbers, opacity = rgb.reshape(-1), alpha.reshape(-1)
    out = torch.empty_like(numbers)
    pixels = STRIP_PIXELS[rgb.device.type]
    behind = torch.tensor(colour, dtype=torch.float32, device=rgb.device).repeat(min(pixels, len(opacity)))

    def blend(start: int) -> None:
        weight = opacity[start : start + pixels, None].expand(-1, 3).flatten() / 255
        strip = slice(3 * start, 3 * start + len(weight))
        out[strip] = behind[: len(weight)].lerp(numbers[strip].float(), weight).round_()

    in_parts(blend, range(0, len(opacity), pixels), rgb.device)
    return out.view(rgb.shape)


def transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Combine `rgb`, uint8 [H,W,3], and `alpha`, uint8 [H,W], to RGBA with straight alpha, uint8 [H,W,4].

    Fully transparent pixels are set to black, so that the file does not contain the removed background. The colours of
    all other pixels are returned unchanged, bit for bit.
    """
    colours, opacity = rgb.reshape(-1, 3), alpha.reshape(-1)
    rgba = torch.empty(len(opacity), 4, dtype=torch.uint8, device=rgb.device)
    pixels = STRIP_PIXELS[rgb.device.type]

    def join(start: int) -> None:
        strip = slice(start, start + pixels)
        rgba[strip, :3], rgba[strip, 3] = colours[strip], opacity[strip]
        # All four bytes of a pixel at once.
        rgba[strip].view(torch.int32)[:, 0].masked_fill_(opacity[strip] == 0, 0)

    in_parts(join, range(0, len(opacity), pixels), rgb.device)
    return rgba.view(*alpha.shape, 4)
