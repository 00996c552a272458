"""A picture on which runners are compared: one in which the networks find a subject."""

import torch
from torch import Tensor

# Half the subject's width and height, as shares of half the picture's.
ACROSS, DOWN = 0.45, 0.6
EDGE = 40.0  # the steepness of the subject's edge


def trial_pixels(size: int) -> Tensor:
    """Return the pixels, float32 [1,3,size,size] of −0.5…0.5, of a shaded orange ellipse on a grey ground.

    Trained networks cut it out. On noise they find nothing, and all masks are 0: a runner that always gives 0 would be as
    good as any other.
    """
    axis = torch.linspace(-1, 1, size)
    y, x = axis[:, None], axis[None, :]
    inside = ((1 - ((x / ACROSS) ** 2 + (y / DOWN) ** 2).sqrt()) * EDGE).clamp(0, 1)
    shade = 0.06 * (x - y)
    subject = torch.stack([level + shade for level in (0.35, -0.2, -0.35)])
    ground = (0.3 + 0.1 * y).expand(3, size, size)
    return ground.lerp(subject, inside)[None]
