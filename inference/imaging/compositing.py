"""Compositing of a cut-out: with transparency, or on a background.

Colours are mixed as they are encoded, in sRGB, like browsers and almost all programs do. The alpha of a photo's edge is
estimated by the same rule, colour = alpha × subject + (1 − alpha) × background, from encoded colours. Mixing linear light
with that alpha would make dark edges lighter than in the photo, and light ones fatter: see
docs/decisions/0023-mixing-encoded-colours.md.
"""

import torch
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.imaging.types import Colour

# Pictures are blended in strips of this many pixels, so that the float copies need little memory, whatever the shape, and
# the cores can share them.
STRIP_PIXELS = {"cpu": 1 << 19, "cuda": 1 << 24}


def on_background(rgb: Tensor, alpha: Tensor, behind: Colour | Tensor) -> Tensor:
    """Composite `rgb`, uint8 [H,W,3], with `alpha`, uint8 [H,W], on an opaque colour or a picture, uint8 [H,W,3].

    Return uint8 [H,W,3].
    """
    # Work on flat tensors: torch's CPU kernels are not vectorised for a last dimension of three.
    numbers, opacity = rgb.reshape(-1), alpha.reshape(-1)
    out = torch.empty_like(numbers)
    pixels = STRIP_PIXELS[rgb.device.type]
    if isinstance(behind, Tensor):
        below_all = behind.reshape(-1)
    else:
        plain = torch.tensor(behind[:3], dtype=torch.float32, device=rgb.device)
        below_all = plain.repeat(min(pixels, len(opacity)))

    def blend(start: int) -> None:
        weight = opacity[start : start + pixels, None].expand(-1, 3).flatten() / 255
        strip = slice(3 * start, 3 * start + len(weight))
        # A plain colour is repeated once, for all strips.
        below = below_all[strip].float() if isinstance(behind, Tensor) else below_all[: len(weight)]
        out[strip] = below.lerp(numbers[strip].float(), weight).round_()

    in_parts(blend, range(0, len(opacity), pixels), rgb.device)
    return out.view(rgb.shape)


def on_layer(rgb: Tensor, alpha: Tensor, colour: Colour, opacity: Tensor | float) -> tuple[Tensor, Tensor]:
    """Lay a translucent colour under a cut-out, and return the colours, uint8 [H,W,3], and the alpha, uint8 [H,W], of both.

    `opacity`, 0…1, is one number or float32 [H,W]. The result is as transparent as both together (Porter and Duff's
    "over").
    """
    flat_alpha = alpha.reshape(-1)
    out_rgb, out_alpha = torch.empty_like(rgb).view(-1, 3), torch.empty_like(flat_alpha)
    below = torch.tensor(colour[:3], dtype=torch.float32, device=rgb.device)
    pixels = STRIP_PIXELS[rgb.device.type]

    def join(start: int) -> None:
        strip = slice(start, start + pixels)
        above = flat_alpha[strip].float() / 255
        under = opacity.reshape(-1)[strip] if isinstance(opacity, Tensor) else opacity
        rest = (1 - above) * under
        total = above + rest
        share = (above / total.clamp(min=1e-6))[:, None]
        out_rgb[strip] = below.lerp(rgb.reshape(-1, 3)[strip].float(), share).round_().to(torch.uint8)
        out_alpha[strip] = (total * 255).round_().clamp_(0, 255).to(torch.uint8)

    in_parts(join, range(0, len(flat_alpha), pixels), rgb.device)
    return out_rgb.view(rgb.shape), out_alpha.view(alpha.shape)


def transparent(rgb: Tensor, alpha: Tensor) -> Tensor:
    """Combine `rgb`, uint8 [H,W,3], and `alpha`, uint8 [H,W], to RGBA with straight alpha, uint8 [H,W,4].

    Fully transparent pixels are set to black, so that the file does not contain the removed background. The colours of
    all other pixels are returned unchanged, bit for bit.
    """
    rgba = torch.empty(*alpha.shape, 4, dtype=torch.uint8, device=rgb.device)
    pixels = STRIP_PIXELS[rgb.device.type]

    def join(strip: tuple[Tensor, ...]) -> None:
        joined, colours, opacity = strip
        joined[:, :3], joined[:, 3] = colours, opacity
        joined.view(torch.int32)[:, 0].masked_fill_(opacity == 0, 0)  # all four bytes of a pixel at once

    flat = rgba.view(-1, 4), rgb.reshape(-1, 3), alpha.reshape(-1)
    in_parts(join, zip(*(part.split(pixels) for part in flat), strict=True), rgb.device)
    return rgba
