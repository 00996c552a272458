"""The unknown region: the pixels of a photo where a mask is uncertain, marked as cells of the mask's small grid."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

# A mask is certain below the first and above the second value.
CERTAIN = (0.03, 0.97)
# A strip covers at most this many pixels of the photo, so that photos of any size and shape need the same memory. On a
# GPU every strip costs a wait and hundreds of kernel launches, and up to 16 megapixels fit at once.
STRIP_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 24}


class UnknownRegion:
    """The pixels of a [H,W] picture that lie in the marked cells of a small grid, [1,1,h,w]."""

    def __init__(self, cells: Tensor, height: int, width: int) -> None:
        self._cells = cells[0, 0] > 0
        self._rows, self._columns = self._cells.shape
        self._height, self._width = height, width
        self._row_of = torch.arange(height, device=cells.device).mul_(self._rows).floor_divide_(height)
        self._column_of = torch.arange(width, device=cells.device).mul_(self._columns).floor_divide_(width)

    def strips(self) -> Iterator[Tensor]:
        """Yield the band's pixels as indices into the flattened picture, int64 [N].

        Each strip covers several rows, or a part of one row.
        """
        pixels = STRIP_PIXELS[self._cells.device.type]
        step = max(1, pixels // self._width)
        for top in range(0, self._height, step):
            cells = self._cells[self._row_of[top : top + step]]
            for left in range(0, self._width, pixels):
                marked = cells[:, self._column_of[left : left + pixels]]
                yield marked.flatten().nonzero()[:, 0] + (top * self._width + left)

    def cell(self, place: Tensor) -> Tensor:
        """Return the index of each pixel's cell in the flattened grid; `place` is as `strips` yields it."""
        row, column = self.row_and_column(place)
        return row * self._columns + column

    def row_and_column(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row and the column of each pixel's cell in the grid."""
        row, column = self._coordinates(place)
        return self._row_of[row], self._column_of[column]

    def at(self, fields: Tensor, place: Tensor) -> Tensor:
        """Sample small fields, float [1,C,h,w], bilinearly at the pixels of `place`; returns [C,N]."""
        row, column = self._coordinates(place)
        x = (column + 0.5) * (2 / self._width) - 1
        y = (row + 0.5) * (2 / self._height) - 1
        grid = torch.stack([x, y], 1)[None, None]
        return F.grid_sample(fields, grid, padding_mode="border", align_corners=False)[0, :, 0]

    def _coordinates(self, place: Tensor) -> tuple[Tensor, Tensor]:
        row = torch.div(place, self._width, rounding_mode="floor")
        return row, place - row * self._width


def uncertain(alpha: Tensor, reach: int, certain: tuple[float, float] = CERTAIN) -> Tensor:
    """Return a 0/1 map, [1,1,h,w], of the pixels that are not surrounded by certain foreground or background only.

    A pixel is certain if all pixels within `reach` are certain foreground, or all are certain background.
    """
    side = 2 * reach + 1
    highest = F.max_pool2d(alpha, side, 1, reach)
    lowest = -F.max_pool2d(-alpha, side, 1, reach)
    return ((highest > certain[0]) & (lowest < certain[1])).float()


def mixed(alpha: Tensor, rows: int, columns: int) -> Tensor:
    """Return the cells of a small grid that contain a semi-transparent pixel, 0/1 [1,1,rows,columns]."""
    between = ((alpha > 0) & (alpha < 255)).to(torch.uint8)
    return F.adaptive_max_pool2d(between[None, None].float(), (rows, columns))
