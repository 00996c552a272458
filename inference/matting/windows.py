"""Means and maxima over square windows, and computing only the parts of a grid that are needed.

Windows are taken down and across one after the other, which takes a fraction of the time.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.cores import in_parts

# Windows up to this radius are so small that a GPU takes longer to start two kernels than to run one.
SMALL = 2
# Cells along a tile's side.
TILE = 128


def window_mean(values: Tensor, radius: int) -> Tensor:
    """Average [1,C,h,w] over squares of 2 × radius + 1 pixels a side; at the border over the part inside."""
    if values.device.type != "cpu":
        for kernel, padding in _kernels(radius):
            values = F.avg_pool2d(values, kernel, 1, padding, count_include_pad=False)
        return values
    return _line_mean(_line_mean(values, radius, 2), radius, 3)


def _line_mean(values: Tensor, radius: int, axis: int) -> Tensor:
    """Average along one axis; adding shifted copies takes half the time of torch's pooling on a CPU."""
    length = values.shape[axis]
    sums = values.clone()
    for step in range(1, min(radius, length - 1) + 1):
        kept = length - step
        sums.narrow(axis, step, kept).add_(values.narrow(axis, 0, kept))
        sums.narrow(axis, 0, kept).add_(values.narrow(axis, step, kept))
    place = torch.arange(length)
    inside = (place + radius).clamp(max=length - 1) - (place - radius).clamp(min=0) + 1
    return sums.div_(inside.view(-1, *[1] * (3 - axis)))


def window_max(values: Tensor, radius: int) -> Tensor:
    """Return the highest of [1,C,h,w] in squares of 2 × radius + 1 pixels a side; at the border of the part inside."""
    if values.device.type != "cpu":
        for kernel, padding in _kernels(radius):
            values = F.max_pool2d(values, kernel, 1, padding)
        return values
    for axis in (2, 3):
        highest, length = values.clone(), values.shape[axis]
        for step in range(1, min(radius, length - 1) + 1):
            kept = length - step
            for start, other in ((step, 0), (0, step)):
                part = highest.narrow(axis, start, kept)
                torch.maximum(part, values.narrow(axis, other, kept), out=part)
        values = highest
    return values


def _kernels(radius: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return sizes and paddings of the windows that a GPU takes one after the other."""
    side = 2 * radius + 1
    if radius <= SMALL:
        return [((side, side), (radius, radius))]
    return [((side, 1), (radius, 0)), ((1, side), (0, radius))]


def in_tiles(compute: Callable[..., Tensor], marked: Tensor, reach: int, *fields: Tensor) -> Tensor:
    """Compute fields of a small grid only around its marked cells, 0/1 [1,1,h,w], tile by tile.

    `compute` maps crops of `fields`, each [1,C,h,w], to its result, [1,D,h,w], each cell of which depends on cells at most
    `reach` apart, an even number, and on pairs of cells that start at an even one. The result, [1,D,H,W], is the same as that
    of the whole grid at the marked cells and their neighbours, and 0 in tiles without any.

    On a CPU this saves most of the time, since the values of a tile fit into its cache, and idle cores take tiles too. A GPU
    does the whole grid at once, because there every tile would cost hundreds of kernel launches.
    """
    if marked.device.type != "cpu":
        return compute(*fields)
    wanted = F.max_pool2d(window_max(marked, 1), TILE, ceil_mode=True)[0, 0]
    first, *others = wanted.nonzero().tolist() or [[0, 0]]

    def computed(tile: list[int]) -> tuple[Tensor, slice, slice]:
        top, left = tile[0] * TILE, tile[1] * TILE
        rows = slice(max(0, top - reach), top + TILE + reach)
        columns = slice(max(0, left - reach), left + TILE + reach)
        part = compute(*(one[..., rows, columns] for one in fields))
        part = part[..., top - rows.start :, left - columns.start :][..., :TILE, :TILE]
        return part, slice(top, top + part.shape[2]), slice(left, left + part.shape[3])

    part, rows, columns = computed(first)
    result = part.new_zeros(1, part.shape[1], *marked.shape[2:])
    result[..., rows, columns] = part

    def put(tile: list[int]) -> None:
        part, rows, columns = computed(tile)
        result[..., rows, columns] = part

    in_parts(put, others, marked.device)
    return result
