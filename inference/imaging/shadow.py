"""A soft shadow under a subject."""

import math

import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.backdrops import blur
from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.resize import resize_planes

# In parts of the longer side of the subject: the standard deviation of the blur, and how far down the shadow falls.
SOFTNESS, FALL = 0.025, 0.03
# The shadow is computed in cells in which its blur has about this standard deviation.
CELLS = 3.0


def soft_shadow(alpha: Tensor, subject: Box, opacity: float) -> Tensor:
    """Return the opacity of a shadow, float32 [H,W] of 0…`opacity`, under a subject with this alpha, uint8 [H,W].

    The shadow is the subject's outline, a little below it and blurred. What falls beyond the canvas is cut off.
    """
    height, width = alpha.shape
    longer = max(subject.width, subject.height)
    cell = max(1, math.floor(SOFTNESS * longer / CELLS))
    rows, columns = math.ceil(height / cell), math.ceil(width / cell)
    cells = resize_planes(alpha[None, None].float() / 255, rows, columns)
    down = min(rows, round(FALL * longer / cell))
    fallen = F.pad(cells, (0, 0, down, 0))[:, :, :rows]
    soft = blur(fallen, SOFTNESS * longer / cell)
    size = (height, width)
    return F.interpolate(soft, size=size, mode="bilinear", align_corners=False)[0, 0].mul_(opacity)
