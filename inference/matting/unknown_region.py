"""The unknown region: the pixels of a photo where a mask is uncertain, marked as cells of the mask's small grid."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.matting.windows import window_max

# A mask is certain below the first and above the second value.
CERTAIN = (0.03, 0.97)
# A strip covers at most this many pixels of the photo, so that photos of any size and shape need the same memory. On a
# GPU every strip costs a wait and hundreds of kernel launches, and up to 16 megapixels fit at once.
STRIP_PIXELS = {"cpu": 1 << 20, "cuda": 1 << 24}


class SmallGrid:
    """A grid of rows × columns cells that is laid over a picture of height × width pixels, to sample fields of its size."""

    def __init__(self, rows: int, columns: int, height: int, width: int) -> None:
        self._rows, self._columns = rows, columns
        self._height, self._width = height, width

    def cell(self, place: Tensor) -> Tensor:
        """Return the index of each pixel's cell in the flattened grid; `place` is as `strips` yields it."""
        row, column = self.row_and_column(place)
        return row * self._columns + column

    def row_and_column(self, place: Tensor) -> tuple[Tensor, Tensor]:
        """Return the row and the column of each pixel's cell in the grid."""
        row, column = self._coordinates(place)
        return self._row_of(row), self._column_of(column)

    def _row_of(self, row: Tensor) -> Tensor:
        return row * self._rows // self._height

    def _column_of(self, column: Tensor) -> Tensor:
        return column * self._columns // self._width

    def at(self, fields: Tensor, place: Tensor) -> Tensor:
        """Sample small fields, float [1,C,h,w], bilinearly at the pixels of `place`; returns [C,N]."""
        row, column = self._coordinates(place)
        x = (column + 0.5) * (2 / self._width) - 1
        y = (row + 0.5) * (2 / self._height) - 1
        grid = torch.stack([x, y], 1)[None, None]
        return F.grid_sample(fields, grid, padding_mode="border", align_corners=False)[0, :, 0]

    def _coordinates(self, place: Tensor) -> tuple[Tensor, Tensor]:
        row = place // self._width
        return row, place - row * self._width


class UnknownRegion(SmallGrid):
    """The pixels of a [H,W] picture that lie in the marked cells of a small grid, [1,1,h,w]."""

    def __init__(self, cells: Tensor, height: int, width: int) -> None:
        super().__init__(cells.shape[2], cells.shape[3], height, width)
        self._cells = cells[0, 0] > 0

    def strips(self) -> list[tuple[slice, slice]]:
        """Return strips of the picture, as rows and columns; each covers several rows, or a part of one row."""
        pixels = STRIP_PIXELS[self._cells.device.type]
        step = max(1, pixels // self._width)
        return [
            (slice(top, min(top + step, self._height)), slice(left, min(left + pixels, self._width)))
            for top in range(0, self._height, step)
            for left in range(0, self._width, pixels)
        ]

    def pixels(self, strip: tuple[slice, slice]) -> Tensor:
        """Return a strip's pixels in marked cells as indices into the flattened picture, int64 [N]."""
        rows, columns = (torch.arange(part.start, part.stop, device=self._cells.device) for part in strip)
        marked = self._cells[self._row_of(rows)][:, self._column_of(columns)]
        first: int = strip[0].start * self._width + strip[1].start
        return marked.flatten().nonzero()[:, 0] + first  # a strip is whole rows, or a part of one


def pixel_strips(alpha: Tensor) -> list[slice]:
    """Return strips of an alpha, [H,W], flattened."""
    pixels = STRIP_PIXELS[alpha.device.type]
    return [slice(start, start + pixels) for start in range(0, alpha.numel(), pixels)]


def see_through(alpha: Tensor, strip: slice) -> Tensor:
    """Return the semi-transparent pixels of a strip of an alpha, uint8 [H,W], as indices into it flattened, int64 [N]."""
    levels, first = alpha.view(-1)[strip], int(strip.start)
    return ((levels > 0) & (levels < 255)).nonzero()[:, 0] + first


def uncertain(alpha: Tensor, reach: int, certain: tuple[float, float] = CERTAIN) -> Tensor:
    """Return a 0/1 map, [1,1,h,w], of the pixels that are not surrounded by certain foreground or background only.

    A pixel is certain if all pixels within `reach` are certain foreground, or all are certain background.
    """
    highest, lowest = window_max(alpha, reach), -window_max(-alpha, reach)
    return ((highest > certain[0]) & (lowest < certain[1])).float()
