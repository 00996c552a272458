"""Shadows under a subject: a soft one that is drawn, and the photo's own on the result's canvas."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.imaging.backdrops import blur
from cutout.inference.imaging.geometry import Box, Placement

# In parts of the longer side of the subject: the standard deviation of the blur, and how far down the shadow falls.
SOFTNESS, FALL = 0.025, 0.03
# A photo's shadow is enlarged in strips of this many rows, which the cores share.
STRIP_ROWS = 256


def soft_shadow(alpha: Tensor, subject: Box, opacity: float) -> Tensor:
    """Return the opacity of a shadow, float32 [H,W] of 0…`opacity`, under a subject with this alpha, uint8 [H,W].

    The shadow is the subject's outline, a little below it and blurred. What falls beyond the canvas is cut off.
    """
    height = alpha.shape[0]
    longer = max(subject.width, subject.height)
    down = min(height, round(FALL * longer))
    fallen = F.pad(alpha[: height - down], (0, 0, down, 0))[None, None].float()
    return blur(fallen, max(0.5, SOFTNESS * longer))[0, 0].mul_(opacity / 255)


def cast_shadow_on(canvas: Placement, opacity: Tensor, height: int, width: int, subject: Box) -> Tensor:
    """Return the opacity of a photo's own shadow on the canvas of a result, float32 [canvas.height,canvas.width].

    `opacity`, float32 [1,1,h,w] of 0…1, covers the photo of [height,width], in which the subject has the box `subject`. The
    shadow is moved and scaled as the subject is, and ends where the photo ends.
    """
    rows, columns = opacity.shape[2:]
    place = canvas.subject
    top, bottom, down, in_rows = _neighbours(
        canvas.height, place.top, subject.height / place.height, subject.top, height, rows, opacity
    )
    left, right, across, in_columns = _neighbours(
        canvas.width, place.left, subject.width / place.width, subject.left, width, columns, opacity
    )
    lines = opacity[0, 0].index_select(0, top).lerp(opacity[0, 0].index_select(0, bottom), down[:, None])
    lines *= in_rows[:, None]
    laid = opacity.new_empty(canvas.height, canvas.width)

    def lay(strip: slice) -> None:
        part = lines[strip]
        laid[strip] = part.index_select(1, left).lerp_(part.index_select(1, right), across).mul_(in_columns)

    in_parts(
        lay, [slice(first, first + STRIP_ROWS) for first in range(0, canvas.height, STRIP_ROWS)], laid.device
    )
    return laid


def _neighbours(
    length: int, start: int, step: float, first: int, of: int, cells: int, like: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each pixel along one side of a canvas, of `length`, where it is among a photo's cells.

    The pixel at `start` shows that at `first` of the photo's `of` pixels, and each further one that `step` pixels on. Returns
    the cell before and the one after, the weight of the latter, and whether the place is within the photo, 0 or 1.
    """
    place = (torch.arange(length, device=like.device) + (0.5 - start)) * step + first
    within = ((place >= 0) & (place <= of)).to(like.dtype)
    cell = (place * (cells / of) - 0.5).clamp_(0, cells - 1)
    before = cell.long()
    return before, (before + 1).clamp_(max=cells - 1), cell - before, within
