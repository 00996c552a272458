"""The second look: run the network again on a crop of the subject, at the network's full input size.

A subject that is a fifth of the photo's width gets two hundred of the network's thousand input pixels. In a crop with
a margin it gets nearly all of them. But a network that sees less of the surroundings can also miss the subject or a
part of it. So the second mask is used only if it shows the same subject and is more certain of its edge, and only
where the first mask is uncertain or nearly agrees.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.hints import MARGIN
from cutout.inference.imaging.resize import resize_planes
from cutout.inference.matting.mask import FOREGROUND
from cutout.inference.matting.unknown_region import uncertain

# The largest crop, as a share of the photo's area. A larger crop would magnify the subject less than twice: the network
# would see hardly more detail, and less of the surroundings.
LARGEST_SHARE = 0.25
# Two masks agree if the intersection of their subjects is at least this share of the union.
AGREEMENT = 0.9
# The second mask is used only within this many pixels of the first mask's uncertain region…
REACH = 2
# …and outside of it only where the two masks differ by no more than this.
TOLERANCE = 0.1


def box_around(mask: Tensor, height: int, width: int) -> Box | None:
    """Return the box of a [height,width] photo for a second look; None if a second look would show nothing new.

    `mask` is the mask of the whole photo, float [1,1,h,w] of 0…1.
    """
    subject = mask[0, 0] > FOREGROUND
    rows, columns = (subject.any(axis).nonzero()[:, 0] for axis in (1, 0))
    if not len(rows):
        return None
    down, across = height / mask.shape[2], width / mask.shape[3]
    top, bottom = float(rows[0]) * down, float(rows[-1] + 1) * down
    left, right = float(columns[0]) * across, float(columns[-1] + 1) * across
    margin = MARGIN * max(bottom - top, right - left)
    first_row, first_column = max(0, int(top - margin)), max(0, int(left - margin))
    box = Box(
        first_column,
        first_row,
        min(width, int(right + margin) + 1) - first_column,
        min(height, int(bottom + margin) + 1) - first_row,
    )
    share = box.height * box.width / (height * width)
    return box if share <= LARGEST_SHARE else None


def merge(first: Tensor, second: Tensor, box: Box, height: int, width: int) -> Tensor | None:
    """Merge the first and the second mask within the box; None if the second mask is not reliable.

    `first` is the mask of the whole photo, float [1,1,h,w]; `second` is that of the box, [1,1,S,S], and so is the
    result.
    """
    before = part_of(first, box, height, width)
    after = resize_planes(second, *before.shape[-2:])
    common, either = torch.minimum(before, after).sum(), torch.maximum(before, after).sum()
    if common < AGREEMENT * either or _doubt(after) > _doubt(before):
        return None
    settled = 1 - uncertain(before, REACH, (TOLERANCE, 1 - TOLERANCE))
    overruled = settled * ((before - after).abs() > TOLERANCE)
    # The weight of the first mask falls off gradually, so that no seam is visible.
    weight = F.avg_pool2d(F.max_pool2d(overruled, 3, 1, 1), 3, 1, 1, count_include_pad=False)
    size = second.shape[-2:]
    weight, before = (F.interpolate(part, size=size, mode="bilinear") for part in (weight, before))
    return second.lerp(before, weight)


def _doubt(mask: Tensor) -> Tensor:
    """Return how uncertain a mask is: the sum of mask × (1 − mask) as a share of the sum of the mask."""
    return (mask * (1 - mask)).sum() / mask.sum().clamp(min=1e-6)


def part_of(mask: Tensor, box: Box, height: int, width: int) -> Tensor:
    """Sample the part of the whole photo's mask that lies in the box, at the mask's scale."""
    rows = max(1, round((box.bottom - box.top) * mask.shape[2] / height))
    columns = max(1, round((box.right - box.left) * mask.shape[3] / width))
    down = torch.linspace(box.top, box.bottom, 2 * rows + 1, device=mask.device)[1::2] * (2 / height) - 1
    across = torch.linspace(box.left, box.right, 2 * columns + 1, device=mask.device)[1::2] * (2 / width) - 1
    y, x = torch.meshgrid(down, across, indexing="ij")
    return F.grid_sample(mask, torch.stack([x, y], -1)[None], padding_mode="border", align_corners=False)
