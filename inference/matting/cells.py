"""Maps of cells on the host: connected regions, growth, and where spots of a picture are on them."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.hints import Spot

# The most cells a side on which parts of a mask are found.
CELLS = 256

Cells = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Map = TypeVar("Map", Cells, Labels)


class Grid:
    """The cells of a mask: where spots of the picture are on them, and how far apart.

    `rows` and `columns` are the picture's height and width in cells; the last row and column may be narrower.
    """

    def __init__(self, shape: tuple[int, ...], rows: float, columns: float, height: int, width: int) -> None:
        self.rows, self.columns, self.height, self.width = rows, columns, height, width
        # Pixels of the picture a cell, in parts of the picture's longer side.
        self.down, self.across = height / rows / max(height, width), width / columns / max(height, width)
        self.shape = shape

    def cell(self, spot: Spot) -> tuple[int, int]:
        """Return the row and the column of a spot, which may lie outside."""
        row, column = int(spot[1] * self.rows // 1), int(spot[0] * self.columns // 1)
        if 0 <= spot[0] <= 1 and 0 <= spot[1] <= 1:  # the right and the lower end belong to the last cell
            row, column = min(row, self.shape[0] - 1), min(column, self.shape[1] - 1)
        return row, column

    def nearest(self, labels: Labels, spot: Spot, reach: float) -> int:
        """Return the label at a spot, else the nearest one within `reach`, a share of the longer side; 0 if none is."""
        row, column = self.cell(spot)
        if 0 <= row < self.shape[0] and 0 <= column < self.shape[1] and labels[row, column]:
            return int(labels[row, column])
        rows, columns = np.nonzero(labels)
        if not len(rows):
            return 0
        distances = np.hypot((rows - row) * self.down, (columns - column) * self.across)
        closest = int(distances.argmin())
        if distances[closest] > reach + max(self.down, self.across):
            return 0
        return int(labels[rows[closest], columns[closest]])

    def at(self, spots: tuple[Spot, ...]) -> Cells:
        """Return the cells, bool [h,w], at spots and beside them; spots outside have none."""
        marked = np.zeros(self.shape, np.bool_)
        for row, column in map(self.cell, spots):
            if 0 <= row < self.shape[0] and 0 <= column < self.shape[1]:
                marked[row, column] = True
        return grown(marked)

    def box_of(self, marked: Cells, margin: float) -> Box:
        """Return the box of the picture, in its pixels, around marked cells and a margin, a share of all cells a side."""
        rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
        edges = []
        for places, count, pixels in ((columns, self.columns, self.width), (rows, self.rows, self.height)):
            first, last = places[0] / count - margin, (places[-1] + 1) / count + margin
            edges.append((max(0, int(first * pixels)), min(pixels, int(last * pixels) + 1)))
        (left, right), (top, bottom) = edges
        return Box(left, top, right - left, bottom - top)

    def inside(self, box: tuple[float, float, float, float]) -> Cells:
        """Return which cells are inside of a box: left, top, right and bottom, as shares of the picture."""
        left, top, right, bottom = box
        down = (np.arange(self.shape[0]) + 0.5) / self.rows
        across = (np.arange(self.shape[1]) + 0.5) / self.columns
        return ((down >= top) & (down <= bottom))[:, None] & ((across >= left) & (across <= right))


def labelled(marked: Cells) -> Labels:
    """Number the connected regions of marked cells, [h,w]: 0 where a cell is not marked, else a number above 0."""
    labels = np.where(marked, np.arange(1, marked.size + 1).reshape(marked.shape), 0)
    while True:
        # Each region takes the highest number that any of its cells is next to, and follows that one's own.
        highest = np.arange(marked.size + 1)
        np.maximum.at(highest, labels[marked], _highest_around(labels)[marked])
        further = highest[highest]
        while (further != highest).any():
            highest, further = further, further[further]
        joined = highest[labels]
        if (joined == labels).all():
            return joined
        labels = joined


def connected(seeds: Cells, within: Cells) -> Cells:
    """Return the regions of cells that are marked in `within` and connected there to any of the seeds."""
    labels = labelled(within)
    reached = np.zeros(within.size + 1, np.bool_)
    reached[labels[seeds]] = True
    reached[0] = False
    return reached[labels]


def at_least(marked: Cells, size: float) -> Cells:
    """Return the connected regions of marked cells that have at least `size` cells."""
    labels = labelled(marked)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= max(1.0, size))[labels]


def spread(labels: Labels, within: Cells, most: int = 2 * CELLS) -> Labels:
    """Let labels grow over cells without one, a cell at a time, `most` times and as far as they are connected `within`."""
    for _ in range(most):
        free = within & (labels == 0)
        grown_on = np.where(free, _highest_around(labels), labels)
        if not free.any() or (grown_on == labels).all():
            break
        labels = grown_on
    return labels


def grown(marked: Cells, times: int = 1) -> Cells:
    """Return marked cells and those within so many cells of them, also across a corner."""
    for _ in range(times):
        marked = _highest_around(marked)
    return marked


def _highest_around(labels: Map) -> Map:
    """Return for each cell the highest number among it and its eight neighbours."""
    rows = labels.copy()
    np.maximum(rows[1:], labels[:-1], out=rows[1:])
    np.maximum(rows[:-1], labels[1:], out=rows[:-1])
    both = rows.copy()
    np.maximum(both[:, 1:], rows[:, :-1], out=both[:, 1:])
    np.maximum(both[:, :-1], rows[:, 1:], out=both[:, :-1])
    return both
