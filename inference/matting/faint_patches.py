"""Faint patches: parts of a network's mask that are connected to nothing that the network is sure of.

A network takes a piece of the background for a veil: a smear in a corner, a shadow, a pattern behind the subject. Such
a patch is larger than a speck, and so it is visible on a new background. Nothing in it is sure, and nothing connects it
to the subject, as smoke, hair and a defocused edge are connected.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Cells = npt.NDArray[np.floating[Any]]
Marked = npt.NDArray[np.bool_]


def cells_to_keep(cells: Cells, shown: float, sure: float, reach: int) -> Marked:
    """Return the cells of a mask that are not background, bool [h,w].

    `cells`, float [h,w] of 0…1, are the highest values of the cells. Cells of at least `shown` are connected if they are
    within `reach` cells of each other, along both axes. Those that are connected to a cell of at least `sure` are kept,
    with all cells within `reach` of them.
    """
    height, width = cells.shape
    grid = _Grid(height, width, reach)
    visible, reached = grid.bits(cells >= shown), grid.bits(cells >= sure)
    while (grown := grid.grow(reached) & visible) != reached:
        reached = grown
    return grid.marked(grid.grow(reached))


@dataclass(frozen=True)
class _Grid:
    """Sets of cells as integers of one bit a cell: a flood takes tens of steps, each a few operations on 8 KB.

    Each row ends with `reach` bits that are no cells; so its last cell is not beside the first of the next row.
    """

    height: int
    width: int
    reach: int

    @property
    def stride(self) -> int:
        return self.width + self.reach

    def bits(self, marked: Marked) -> int:
        return int.from_bytes(np.packbits(np.pad(marked, ((0, 0), (0, self.reach)))).tobytes())

    def marked(self, bits: int) -> Marked:
        """Return the cells of a set, bool [height,width]. What lies beyond the first and the last row is cut off."""
        count = self.height * self.stride
        size = -(-count // 8)
        packed = np.frombuffer((bits & ((1 << 8 * size) - 1)).to_bytes(size), np.uint8)
        return np.unpackbits(packed, count=count).view(np.bool_).reshape(self.height, -1)[:, : self.width]

    def grow(self, bits: int) -> int:
        """Add all cells within `reach` of each cell."""
        for step in (1, self.stride):
            grown = bits
            for steps in range(step, (self.reach + 1) * step, step):
                grown |= bits << steps | bits >> steps
            bits = grown
        return bits
