"""The second look: the subject alone is shown to the network again, as large as it can see.

A subject that is a fifth of a photo across is given two hundred of the network's thousand pixels. Cut out with a
margin, it is given all of them. But a network that sees less around a subject can also lose it, or a part; so the
second mask is believed only if it is of the same subject and surer of its edge, and only as far as the first one leaves
room for it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.resize import resize_planes
from cutout.inference.matting.mask import FOREGROUND
from cutout.inference.matting.unknown_region import uncertain

# Around the subject, as a share of its own longer side: enough that the network sees what it stands out from.
MARGIN = 0.15
# Of the photo's area. Less than twice as large, the subject shows the network hardly more, and its surroundings less.
LARGEST_SHARE = 0.25
# Masks agree if what both call subject is at least so much of what either does.
AGREEMENT = 0.9
# A second look is heard only within so many of the first mask's pixels of what that left open…
REACH = 2
# …and elsewhere where it differs by no more than this.
TOLERANCE = 0.1


@dataclass(frozen=True)
class Box:
    """A part of a photo, in its pixels."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def of(self, rgb: Tensor) -> Tensor:
        """Cut this part out of a photo, [H,W,3]."""
        return rgb[self.rows, self.columns].contiguous()


def box_around(mask: Tensor, height: int, width: int) -> Box | None:
    """Find the part of a [height,width] photo to look at again; None where that would show nothing new.

    `mask` is float [1,1,h,w] of 0…1, of the whole photo.
    """
    subject = mask[0, 0] > FOREGROUND
    rows, columns = (subject.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return None
    down, across = height / mask.shape[2], width / mask.shape[3]
    top, bottom = float(rows[0]) * down, float(rows[-1] + 1) * down
    left, right = float(columns[0]) * across, float(columns[-1] + 1) * across
    margin = MARGIN * max(bottom - top, right - left)
    box = Box(
        top=max(0, int(top - margin)),
        left=max(0, int(left - margin)),
        bottom=min(height, int(bottom + margin) + 1),
        right=min(width, int(right + margin) + 1),
    )
    share = (box.bottom - box.top) * (box.right - box.left) / (height * width)
    return box if share <= LARGEST_SHARE else None


def merge(first: Tensor, second: Tensor, box: Box, height: int, width: int) -> Tensor | None:
    """Join two masks of the box, or say with None that the second cannot be believed.

    `first` is the whole photo's, float [1,1,h,w]; `second` the box's, [1,1,S,S] → [1,1,S,S], the box's.
    """
    before = _part(first, box, height, width)
    after = resize_planes(second, *before.shape[-2:])
    common, either = torch.minimum(before, after).sum(), torch.maximum(before, after).sum()
    if common < AGREEMENT * either or _doubt(after) > _doubt(before):
        return None
    settled = 1 - uncertain(before, REACH, (TOLERANCE, 1 - TOLERANCE))
    overruled = settled * ((before - after).abs() > TOLERANCE)
    # Taken from the first mask gradually, so that no seam shows.
    weight = F.avg_pool2d(F.max_pool2d(overruled, 3, 1, 1), 3, 1, 1, count_include_pad=False)
    size = second.shape[-2:]
    weight, before = (F.interpolate(part, size=size, mode="bilinear") for part in (weight, before))
    return second.lerp(before, weight)


def _doubt(mask: Tensor) -> Tensor:
    """Return how much of a subject is neither it nor background, as a share."""
    return (mask * (1 - mask)).sum() / mask.sum().clamp(min=1e-6)


def _part(mask: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Read the box's part of the whole photo's mask, at the mask's own scale."""
    rows = max(1, round((box.bottom - box.top) * mask.shape[2] / height))
    columns = max(1, round((box.right - box.left) * mask.shape[3] / width))
    down = torch.linspace(box.top, box.bottom, 2 * rows + 1, device=mask.device)[1::2] * (2 / height) - 1
    across = torch.linspace(box.left, box.right, 2 * columns + 1, device=mask.device)[1::2] * (2 / width) - 1
    y, x = torch.meshgrid(down, across, indexing="ij")
    return F.grid_sample(mask, torch.stack([x, y], -1)[None], padding_mode="border", align_corners=False)
