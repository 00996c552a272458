"""A soft shadow under a subject."""

import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.backdrops import blur
from cutout.inference.imaging.geometry import Box

# In parts of the longer side of the subject: the standard deviation of the blur, and how far down the shadow falls.
SOFTNESS, FALL = 0.025, 0.03


def soft_shadow(alpha: Tensor, subject: Box, opacity: float) -> Tensor:
    """Return the opacity of a shadow, float32 [H,W] of 0…`opacity`, under a subject with this alpha, uint8 [H,W].

    The shadow is the subject's outline, a little below it and blurred. What falls beyond the canvas is cut off.
    """
    height = alpha.shape[0]
    longer = max(subject.width, subject.height)
    down = min(height, round(FALL * longer))
    fallen = F.pad(alpha[: height - down], (0, 0, down, 0))[None, None].float()
    return blur(fallen, max(0.5, SOFTNESS * longer))[0, 0].mul_(opacity / 255)
