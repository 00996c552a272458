"""Resizing, in memory that is bounded by the larger of source and result, however thin either is."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# Times as many pixels as the result has; above it gathering the pixels that count is faster.
LARGE = 4
# In floats, each axis is first averaged down by a whole factor where it shrinks by more than this: torch's kernel for CUDA
# takes shared memory in proportion to the scale and fails from about 95 on.
MOST_SCALE = 32
# Torch resizes across before down. Where that makes an intermediate of so many times the pixels of source and result,
# which takes a photo a few pixels wide, it is done the other way round: the same within one level of rounding.
MOST_GROWTH = 4


def resize_bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C] as `F.interpolate` does, corners not aligned.

    Without antialias each result is made of four pixels. Of a large photo only those are made floats: all of twelve
    megapixels would take 144 MB, and three times as long.
    """
    rows, columns = image.shape[:2]
    if rows * columns <= LARGE * height * width:
        planes = image.permute(2, 0, 1)[None].float()
        return F.interpolate(planes, size=(height, width), mode="bilinear")[0].permute(1, 2, 0)
    top, bottom, down = _neighbours(rows, height, image.device)
    left, right, across = _neighbours(columns, width, image.device)
    across, down = across[:, None], down[:, None, None]
    # Where there are fewer rows than the result has, they would be gathered many times over, each as long as the photo.
    if rows < height:
        before, after = image.index_select(1, left), image.index_select(1, right)

        def row(index: Tensor) -> Tensor:
            return before.index_select(0, index).float().lerp_(after.index_select(0, index).float(), across)

    else:

        def row(index: Tensor) -> Tensor:
            line = image.index_select(0, index)
            return line.index_select(1, left).float().lerp_(line.index_select(1, right).float(), across)

    return row(top).lerp_(row(bottom), down)


def resize_antialiased(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C], bilinear with antialias, within a level of Pillow's.

    On a CPU torch does it on bytes, as Pillow does, rounding included; on a GPU it has to be floats.
    """
    planes = image.permute(2, 0, 1)[None]
    if image.device.type != "cpu":
        planes = planes.float()
    return resize_planes(planes, height, width)[0].permute(1, 2, 0).float()


def resize_planes(planes: Tensor, height: int, width: int) -> Tensor:
    """Bring float or, on a CPU, uint8 [1,C,H,W] to [1,C,height,width] of the same kind, bilinear with antialias.

    In floats, an axis that shrinks by more than MOST_SCALE is averaged over a whole number of pixels first. The last
    average is of what is left over, so that places move by less than a sixteenth of one of the result's pixels.
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
    # Of a single column torch 2.13 gives wrong numbers, by its strides and where it stays one; of two equal ones right.
    pair = torch.cat([planes, planes], 3)
    resized = F.interpolate(pair, size=(height, max(2, width)), mode="bilinear", antialias=True)
    return resized[..., :width]


def _neighbours(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` places along an axis: the pixel before, the one after, and the weight of the latter."""
    place = ((torch.arange(size, device=device) + 0.5) * (source / size) - 0.5).clamp_(min=0)
    before = place.long()
    return before, (before + 1).clamp_(max=source - 1), place - before
