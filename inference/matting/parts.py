"""The connected parts of a network's mask, and which of them the caller's hints mean.

Parts are found on the host, on a copy of the mask with at most 256 cells a side. Cells whose highest value is at least
FOREGROUND are connected where they touch, also at a corner. A soft edge belongs to the part that it is nearest to, along
values that are not 0; what no such way leads to, as a faint patch, is a part of its own.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.hints import Aim, Spot
from cutout.inference.matting.mask import FOREGROUND

CELLS = 256
# A point means the part that it is on, else the nearest one within this share of the picture's longer side. That of a
# point to drop is short: a point beside the subject is on the background, which needs no dropping.
KEEP_REACH, DROP_REACH = 0.05, 0.01
# A part with less than this share inside of the box goes, if another has more: it is a neighbour that the box touches.
INSIDE = 0.5
# A part that has both kinds of points is made thinner by a cell on every side, at most so often, until it falls apart.
MOST_EROSIONS = 24

Cells = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
DROPPED, KEPT = 1, 2
# How many cells beyond its soft edge a part is taken away with what refinement finds there.
BEYOND = 3


@dataclass(frozen=True)
class Chosen:
    """A mask, float32 [1,1,h,w] of 0…1, of the parts that are meant alone.

    `weights`, of the same shape, are 1 on parts that stay and 0 on parts that go; None if all of them stay.
    """

    mask: Tensor = field(repr=False)
    weights: Tensor | None = field(default=None, repr=False)


def choose(mask: Tensor, aim: Aim, height: int, width: int) -> Chosen | None:
    """Return the parts of a mask that the hints mean; None if none of them stays.

    `mask`, float32 [1,1,h,w] of 0…1, is the network's of a picture of height × width pixels.

    Raises:
        InvalidOptions: a point to keep is on no part, or a part that cannot be divided has both kinds of points.

    """
    side = max(1, -(-max(mask.shape) // CELLS))
    highest = F.max_pool2d(mask, side, ceil_mode=True)
    values: Values = highest[0, 0].cpu().numpy()
    # Shares of the picture in cells. The last row and column of cells may be narrower than the others.
    grid = _Grid(values.shape, mask.shape[2] / side, mask.shape[3] / side, height, width)
    staying = _staying(values, aim, grid)
    if staying is None:
        return Chosen(mask)
    if not staying.any():
        return None
    weights = torch.from_numpy(staying.astype(np.float32))[None, None].to(mask.device)
    if side > 1:
        weights = F.interpolate(weights, scale_factor=side, mode="bilinear", align_corners=False)
        weights = weights[:, :, : mask.shape[2], : mask.shape[3]]
    return Chosen(mask * weights, weights)


class _Grid:
    """The cells of a mask: where spots of the picture are on them, and how far apart."""

    def __init__(self, shape: tuple[int, ...], rows: float, columns: float, height: int, width: int) -> None:
        self.rows, self.columns = rows, columns
        # Pixels of the picture a cell, in parts of the picture's longer side.
        self.down, self.across = height / rows / max(height, width), width / columns / max(height, width)
        self.shape = shape

    def cell(self, spot: Spot) -> tuple[int, int]:
        """Return the row and the column of a spot, which may lie outside."""
        return int(spot[1] * self.rows // 1), int(spot[0] * self.columns // 1)

    def nearest(self, labels: Labels, spot: Spot, reach: float) -> int:
        """Return the label at a spot, else the nearest one within `reach`, a share of the longer side; 0 if none is."""
        row, column = self.cell(spot)
        last_row, last_column = self.shape[0] - 1, self.shape[1] - 1
        if 0 <= spot[0] <= 1 and 0 <= spot[1] <= 1:  # the right and the lower end belong to the last cell
            row, column = min(row, last_row), min(column, last_column)
        if 0 <= row <= last_row and 0 <= column <= last_column and labels[row, column]:
            return int(labels[row, column])
        rows, columns = np.nonzero(labels)
        if not len(rows):
            return 0
        distances = np.hypot((rows - row) * self.down, (columns - column) * self.across)
        closest = int(distances.argmin())
        if distances[closest] > reach + max(self.down, self.across):
            return 0
        return int(labels[rows[closest], columns[closest]])

    def inside(self, box: tuple[float, float, float, float]) -> Cells:
        """Return which cells are inside of a box: left, top, right and bottom, as shares of the picture."""
        left, top, right, bottom = box
        down = (np.arange(self.shape[0]) + 0.5) / self.rows
        across = (np.arange(self.shape[1]) + 0.5) / self.columns
        return ((down >= top) & (down <= bottom))[:, None] & ((across >= left) & (across <= right))


def _staying(values: Values, aim: Aim, grid: _Grid) -> Cells | None:
    """Return which cells stay, if any does; None if all do."""
    strong: Cells = values >= FOREGROUND
    shown: Cells = values > 0
    if not shown.any():
        return None
    labels = _spread(_labelled(strong), shown)
    faint = _labelled(shown & (labels == 0))
    labels = np.where(faint > 0, faint + labels.max(), labels)
    labels, kept, dropped = _pointed_at(labels, strong, aim, grid)

    sizes = np.bincount(labels.ravel(), weights=values.ravel())
    parts = np.flatnonzero(sizes[1:]) + 1
    stays = kept if aim.keep else set(parts.tolist()) - dropped
    if aim.box is not None and not aim.keep:
        within = np.bincount(labels.ravel(), weights=(values * grid.inside(aim.box)).ravel())
        mostly = {part for part in stays if within[part] >= INSIDE * sizes[part]}
        stays = mostly or stays
    if aim.largest_only and stays:
        stays = {max(sorted(stays), key=lambda part: float(sizes[part]))}
    if stays == set(parts.tolist()):
        return None
    stays_strong = bool(np.isin(labels[strong], list(stays)).any())
    if not stays or not (stays_strong or aim.keep):  # faint patches alone are no subject
        return np.zeros_like(shown)
    states = np.where(labels > 0, np.where(np.isin(labels, list(stays)), KEPT, DROPPED), 0)
    # A few cells further, so that the weights are level wherever the mask or the refined alpha is not 0.
    staying: Cells = _spread(states, states == 0, BEYOND) != DROPPED
    return staying


def _pointed_at(labels: Labels, strong: Cells, aim: Aim, grid: _Grid) -> tuple[Labels, set[int], set[int]]:
    """Return the labels of the parts, and which of them are at points to keep and at points to drop.

    A part that has both kinds of points is divided; the labels are changed where it is.
    """
    kept: dict[int, list[Spot]] = {}
    for number, spot in enumerate(aim.keep, 1):
        label = grid.nearest(labels, spot, KEEP_REACH)
        if not label:
            raise InvalidOptions(
                f"No subject was found at point {number} of those to keep, nor near it. Move the point onto the"
                " subject, or leave it out."
            )
        kept.setdefault(label, []).append(spot)
    dropped: dict[int, list[Spot]] = {}
    for spot in aim.drop:
        label = grid.nearest(labels, spot, DROP_REACH)
        if label:
            dropped.setdefault(label, []).append(spot)
    for label in sorted(kept.keys() & dropped.keys()):
        whole = labels == label
        pieces = _divided(whole & strong, kept[label], dropped[label], grid)
        if pieces is None:
            raise InvalidOptions(
                "A point to keep and a point to drop are on the same part of the subject, which is not narrow anywhere"
                " between them. Leave one of them out."
            )
        # The piece that stays keeps the label.
        pieces = _spread(pieces, whole)
        new = int(labels.max()) + 1
        labels = np.where(whole & (pieces == DROPPED), new, labels)
        dropped[new] = dropped.pop(label)
    return labels, set(kept), set(dropped)


def _divided(part: Cells, keep: list[Spot], drop: list[Spot], grid: _Grid) -> Labels | None:
    """Divide a part at its narrowest place between the points: KEPT and DROPPED; None if no place is narrow."""
    core = part
    for _ in range(MOST_EROSIONS):
        core = core & ~(_highest_around((~core).astype(np.int64)) > 0)
        labels = _labelled(core)
        kept = {grid.nearest(labels, spot, 1.0) for spot in keep}
        dropped = {grid.nearest(labels, spot, 1.0) for spot in drop}
        if 0 in kept:  # nothing is left
            return None
        if not kept & dropped:
            seeds = np.where(np.isin(labels, list(kept)), KEPT, 0)
            seeds = np.where(np.isin(labels, list(dropped)), DROPPED, seeds)
            return _spread(seeds, part)
    return None


def _labelled(marked: Cells) -> Labels:
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


def _spread(labels: Labels, within: Cells, most: int = 2 * CELLS) -> Labels:
    """Let labels grow over cells without one, a cell at a time, `most` times and as far as they are connected `within`."""
    for _ in range(most):
        free = within & (labels == 0)
        grown = np.where(free, _highest_around(labels), labels)
        if not free.any() or (grown == labels).all():
            break
        labels = grown
    return labels


def _highest_around(labels: Labels) -> Labels:
    """Return for each cell the highest number among it and its eight neighbours."""
    rows = labels.copy()
    np.maximum(rows[1:], labels[:-1], out=rows[1:])
    np.maximum(rows[:-1], labels[1:], out=rows[:-1])
    both = rows.copy()
    np.maximum(both[:, 1:], rows[:, :-1], out=both[:, 1:])
    np.maximum(both[:, :-1], rows[:, 1:], out=both[:, :-1])
    return both
