"""Resizing with memory bounded by the larger of source and result, even if either is very thin."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# If the source has more than this many times the pixels of the result, gathering only the needed pixels is faster.
LARGE = 4
# A float axis that shrinks by more than this factor is first averaged down by a whole factor: torch's CUDA kernel uses
# shared memory in proportion to the scale, and fails from a scale of about 95 on.
MOST_SCALE = 32
# Torch resizes columns before rows. If the intermediate picture then has more than this many times the pixels of both
# source and result, as for a photo a few pixels wide, the rows are resized first. The result is the same within one
# level of rounding.
MOST_GROWTH = 4


def resize_bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 [H,W,C] to float32 [height,width,C] as bilinear `F.interpolate` does, without aligned corners.

    Without antialiasing, each pixel of the result depends on four pixels of the source. For a large photo only those
    are converted to floats: converting all twelve megapixels would take 144 MB, and three times as long.
    """
    rows, columns = image.shape[:2]
    if rows * columns <= LARGE * height * width:
        planes = image.permute(2, 0, 1)[None].float()
        return F.interpolate(planes, size=(height, width), mode="bilinear")[0].permute(1, 2, 0)
    top, bottom, down = _neighbours(rows, height, image.device)
    left, right, across = _neighbours(columns, width, image.device)
    across, down = across[:, None], down[:, None, None]
    rows_of = torch.cat([top, bottom])
    # If the result has more rows than the source, gathering rows first would copy long source rows many times over.
    if rows < height:
        before, after = (image.index_select(1, index).index_select(0, rows_of) for index in (left, right))
    else:
        lines = image.index_select(0, rows_of)
        before, after = lines.index_select(1, left), lines.index_select(1, right)
    blended: Tensor = before.float().lerp_(after.float(), across)
    return blended[:height].lerp_(blended[height:], down)


def resize_antialiased(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 [H,W,C] to float32 [height,width,C], bilinearly with antialiasing, within one level of Pillow.

    On a CPU torch resizes bytes directly, with rounding, as Pillow does; on a GPU it needs floats.
    """
    return resized_planes(image, height, width)[0].permute(1, 2, 0).float()


def resized_planes(image: Tensor, height: int, width: int) -> Tensor:
    """Resize uint8 [H,W,C] as `resize_antialiased` does, to [1,C,height,width], uint8 on a CPU and float32 on a GPU."""
    planes = image.permute(2, 0, 1)[None]
    return resize_planes(planes if image.device.type == "cpu" else planes.float(), height, width)


def resize_planes(planes: Tensor, height: int, width: int) -> Tensor:
    """Resize [1,C,H,W], float or on a CPU also uint8, to [1,C,height,width] of the same dtype, with antialiasing.

    A float axis that shrinks by more than MOST_SCALE is first averaged over a whole number of pixels. The last average
    covers only the remaining pixels, which shifts positions by less than a sixteenth of a pixel of the result.
    """
    if planes.is_floating_point():
        sizes = zip(planes.shape[2:], (height, width), strict=True)
        factors = [math.ceil(source / size / MOST_SCALE) for source, size in sizes]
        if max(factors) > 1:
            planes = F.avg_pool2d(planes, factors, ceil_mode=True)
    rows, columns = planes.shape[2:]
    if rows * width > MOST_GROWTH * max(rows * columns, height * width):
        planes = _interpolated(planes, height, columns)
    return _interpolated(planes, height, width)


def _interpolated(planes: Tensor, height: int, width: int) -> Tensor:
    if planes.shape[3] > 1:
        return F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    # For a single column torch 2.13 returns wrong numbers, depending on its strides and on whether the result also has
    # one column. For two equal columns the result is right.
    pair = torch.cat([planes, planes], 3)
    resized = F.interpolate(pair, size=(height, max(2, width)), mode="bilinear", antialias=True)
    return resized[..., :width]


def _neighbours(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return for each of `size` positions on an axis the pixel before, the one after, and the weight of the latter."""
    place = (torch.arange(0.5, size, device=device) * (source / size) - 0.5).clamp_(min=0)
    before = place.long()
    return before, (before + 1).clamp_(max=source - 1), place - before
