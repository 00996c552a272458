"""The connected parts of a network's mask, and which of them the caller's hints mean.

Parts are found on the host, on a copy of the mask with at most 256 cells a side. Cells whose highest value is at least
FOREGROUND are connected where they touch, also at a corner. A soft edge belongs to the part that it is nearest to, along
values that are not 0; what no such way leads to, as a faint patch, is a part of its own.

Whole parts stay or go. Strokes also change the mask itself, as far as they flood (`flood`), and so do holes that are
filled. Parts that go take nothing from the others, so they are taken away from the refined alpha; what changes the
mask is refined as the mask is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.hints import Aim, Spot
from cutout.inference.imaging.resize import resized_planes
from cutout.inference.imaging.strokes import Strokes
from cutout.inference.matting import flood
from cutout.inference.matting.cells import (
    CELLS,
    Cells,
    Grid,
    Labels,
    Values,
    connected,
    grown,
    labelled,
    spread,
)
from cutout.inference.matting.crop_refinement import part_of
from cutout.inference.matting.flood import Ground
from cutout.inference.matting.mask import FOREGROUND, uploaded

# A point means the part that it is on, else the nearest one within this share of the picture's longer side. That of a
# point to drop is short: a point beside the subject is on the background, which needs no dropping.
KEEP_REACH, DROP_REACH = 0.05, 0.01
# A part with less than this share inside of the box goes, if another has more: it is a neighbour that the box touches.
INSIDE = 0.5
# A part that a stroke to drop is on goes as a whole if it reaches at least this share of it, and so does a part that has
# less than this share of the largest one: a false patch, of whatever colours.
WHOLE, SMALL = 0.75, 0.5
# A stroke to keep means the parts that it is on if more than this share of it is on parts; else what is beside them.
MOSTLY = 0.5
# It means a part only if at least this share of it is there: it may graze others.
GRAZED = 0.1
DROPPED, KEPT = 1, 2
# Parts are divided between points as long as that is work on no more cells than of so many masks: a second.
MOST_DIVIDED = 8
# How many cells beyond its soft edge a part is taken away with what refinement finds there.
BEYOND = 3
# How far beyond what strokes change the refined alpha may change, as a share of all cells a side.
NEAR = 1 / 64
# How many cells what is added reaches into the subject beside it, so that no seam is between them.
OVERLAP = 2
# How far refinement looks around what it computes, as a share of all cells a side.
AROUND = 1 / 32
# The side of the mask of a photo in which the network found no subject.
EMPTY = 4 * CELLS


@dataclass(frozen=True)
class Change:
    """What strokes and filled holes change of a mask; each is float32 [1,1,h,w] of 0…1.

    `added` is part of the subject, `removed` is not; `near` is 1 where the refined alpha may change. `box` is a box of the
    photo that has all of it, and what refinement needs around it.
    """

    added: Tensor = field(repr=False)
    removed: Tensor = field(repr=False)
    near: Tensor = field(repr=False)
    box: Box

    def of(self, mask: Tensor) -> Tensor:
        """Return a mask, float [1,1,h,w], with the change."""
        left = mask * (1 - self.removed)
        return left + (1 - left) * self.added

    def of_part(self, mask: Tensor, box: Box, height: int, width: int) -> Tensor:
        """Return the mask, float [1,1,h,w], of a box of a photo of this size, with the change."""
        added, removed = (
            F.interpolate(part_of(one, box, height, width), size=mask.shape[2:], mode="bilinear")
            for one in (self.added, self.removed)
        )
        return mask.lerp(torch.zeros_like(mask), removed).lerp(torch.ones_like(mask), added)


@dataclass(frozen=True)
class Chosen:
    """A mask, float32 [1,1,h,w] of 0…1, of the parts that are meant alone, with their change.

    `weights`, of the same shape, are 1 on parts that stay and 0 on parts that go; None if all of them stay.
    """

    mask: Tensor = field(repr=False)
    weights: Tensor | None = field(default=None, repr=False)
    change: Change | None = field(default=None, repr=False)


def ground_of(rgb: Tensor, mask_shape: tuple[int, ...] | None) -> Tensor:
    """Return the colours of a picture, uint8 [H,W,3], in the cells of a mask, [1,3,h,w] of 0…255.

    `mask_shape` is the mask's (rows, columns), None if the network found no subject. Where a stroke ends may hang on the
    last bit of the colours, so a copy made smaller needs those of the picture itself.
    """
    rows, columns = mask_shape or (EMPTY, EMPTY)
    side = _side_of(rows, columns)
    return resized_planes(rgb, -(-rows // side), -(-columns // side))


def choose(whole: Tensor | None, aim: Aim, rgb: Tensor, ground: Tensor | None = None) -> Chosen | None:
    """Return the parts of a mask that the hints mean; None if none of them stays.

    `whole`, float32 [1,1,h,w], is the network's of a picture, uint8 [H,W,3]; None if it found no subject. `ground` is what
    `ground_of` returns for the picture, or else for what it is a copy of.

    Raises:
        InvalidOptions: a point to keep is on no part.

    """
    height, width = rgb.shape[:2]
    mask = torch.zeros(1, 1, EMPTY, EMPTY, device=rgb.device) if whole is None else whole
    side = _side_of(*mask.shape[2:])
    highest = F.max_pool2d(mask, side, ceil_mode=True)
    values: Values = highest[0, 0].cpu().numpy()
    # Shares of the picture in cells. The last row and column of cells may be narrower than the others.
    grid = Grid(values.shape, mask.shape[2] / side, mask.shape[3] / side, height, width)
    picked = _Picked(values, aim, grid, lambda: ground_of(rgb, mask.shape[2:]) if ground is None else ground)
    stays = picked.staying()
    removed = picked.removed & np.isin(picked.labels, list(stays))
    shown = picked.strong & np.isin(picked.labels, list(stays)) & ~removed
    added = picked.added & ~shown
    if aim.fill_holes and (shown | added).any():
        lowest: Values = -F.max_pool2d(-mask, side, ceil_mode=True)[0, 0].cpu().numpy()
        added |= _holes(shown | added, (lowest < FOREGROUND) | ~shown, picked.drop_marks)
    if not shown.any() and not added.any() and not (aim.keep and stays):
        return None  # faint patches alone are no subject

    size, device = mask.shape[2:], mask.device

    def enlarged(cells: Cells) -> Tensor:
        weights = uploaded(cells, device).float()
        if side > 1:
            weights = F.interpolate(weights, scale_factor=side, mode="bilinear", align_corners=False)
        return weights[:, :, : size[0], : size[1]]

    weights, change = None, None
    if stays != picked.parts:
        weights = enlarged(_weights(picked.labels, values > 0, stays) | added)
        mask = mask * weights
    if added.any() or removed.any():
        near = grown(added | removed, max(1, int(NEAR * max(values.shape))))
        added |= grown(added, OVERLAP) & shown
        gone = _with_soft_edge(removed, picked, values > 0)
        change = Change(enlarged(added), enlarged(gone), enlarged(near), grid.box_of(near, AROUND))
        mask = change.of(mask)
    return Chosen(mask, weights, change)


def _side_of(rows: int, columns: int) -> int:
    """Return the side of a cell in pixels of a mask."""
    return max(1, -(-max(rows, columns) // CELLS))


class _Picked:
    """The parts of a mask in cells, [h,w], and what the hints say of each.

    `labels` numbers the parts; `strong` are cells of at least FOREGROUND; `kept` and `dropped` are parts; `added` and
    `removed` are what strokes flood to, outside of parts and on parts that stay.
    """

    def __init__(self, values: Values, aim: Aim, grid: Grid, ground: Callable[[], Tensor]) -> None:
        self.values, self.aim, self.grid = values, aim, grid
        self.strong: Cells = values >= FOREGROUND
        shown: Cells = values > 0
        labels = spread(labelled(self.strong), shown)
        faint = labelled(shown & (labels == 0))
        self.labels: Labels = np.where(faint > 0, faint + labels.max(), labels)
        self.sizes = np.bincount(self.labels.ravel(), weights=values.ravel())
        self.parts = set((np.flatnonzero(self.sizes[1:]) + 1).tolist())
        self.kept, self.dropped = self._kept(), self._dropped()
        keep, drop = (_marked(one, grid) for one in (aim.keep_strokes, aim.drop_strokes))
        keep, drop = keep & ~drop, drop & ~keep
        self.keep_marks, self.drop_marks = keep | grid.at(aim.keep), drop | grid.at(aim.drop)
        self.added, self.removed = np.zeros_like(shown), np.zeros_like(shown)
        if keep.any() or drop.any() or self.kept & self.dropped:
            self._draw((ground()[0].permute(1, 2, 0) / 255).cpu().numpy(), keep, drop)

    def staying(self) -> set[int]:
        """Return the parts that stay."""
        stays = self.kept if self.picks else self.parts - self.dropped
        if self.aim.box is not None and not self.picks:
            inside = (self.values * self.grid.inside(self.aim.box)).ravel()
            within = np.bincount(self.labels.ravel(), weights=inside)
            stays = {part for part in stays if within[part] >= INSIDE * self.sizes[part]} or stays
        if self.aim.largest_only and stays:
            stays = {max(sorted(stays), key=lambda part: float(self.sizes[part]))}
        return stays

    def _kept(self) -> set[int]:
        self.at_keep = [self.grid.nearest(self.labels, spot, KEEP_REACH) for spot in self.aim.keep]
        for number, label in enumerate(self.at_keep, 1):
            if not label:
                raise InvalidOptions(
                    f"No subject was found at point {number} of those to keep, nor near it. Move the point onto the"
                    " subject, or leave it out."
                )
        self.picks = bool(self.at_keep)
        return set(self.at_keep)

    def _dropped(self) -> set[int]:
        self.at_drop = [self.grid.nearest(self.labels, spot, DROP_REACH) for spot in self.aim.drop]
        return set(self.at_drop) - {0}

    def _draw(self, colours: Values, keep: Cells, drop: Cells) -> None:
        """Find what the strokes mean: parts that stay or go, and cells beside and on them."""
        adding = self._pick(keep)
        if keep.any():
            self.added = flood.flooded(Ground(colours, ~self.strong), keep, self.drop_marks, adding)
        bodies = set(np.unique(self.labels[self.strong]).tolist())
        both = self.kept & self.dropped & bodies  # they have points of both kinds
        drawn = set(np.unique(self.labels[drop & self.strong]).tolist())
        faint = set(np.unique(self.labels[drop]).tolist()) - bodies - {0}
        small = SMALL * self.sizes[1:].max(initial=0)
        whole = {label for label in drawn - self.kept if self.sizes[label] < small}
        drawn -= whole | (self.dropped - both)
        gone = self._reached(colours, drop, drawn)
        for label, body in self._bodies(both).items():
            gone |= self._divided(colours, label, body)
        taken = np.bincount(self.labels[gone], minlength=len(self.sizes))
        cells = np.bincount(self.labels[self.strong], minlength=len(self.sizes))
        whole |= {label for label in drawn - self.kept if taken[label] >= WHOLE * cells[label]}
        self.dropped = (self.dropped - both) | faint | whole
        self.removed = gone & ~np.isin(self.labels, list(self.dropped))

    def _pick(self, keep: Cells) -> Cells:
        """Find the parts that strokes to keep lie on; return those strokes that lie beside the parts."""
        strokes, count = labelled(keep), keep.size + 1
        on = keep & self.strong
        cells, cells_on = (
            np.bincount(strokes[keep], minlength=count),
            np.bincount(strokes[on], minlength=count),
        )
        picks = cells_on > MOSTLY * cells
        pairs, met = np.unique(strokes[on] * count + self.labels[on], return_counts=True)
        stroke, label = pairs // count, pairs % count
        meant = picks[stroke] & (met >= GRAZED * cells_on[stroke])
        self.kept |= set(label[meant].tolist())
        self.picks = self.picks or bool(picks.any())
        return keep & ~picks[strokes]

    def _reached(self, colours: Values, drop: Cells, drawn: set[int]) -> Cells:
        """Return the cells of parts that strokes to drop reach."""
        body = np.isin(self.labels, list(drawn)) & self.strong
        stroke = drop & body
        if not stroke.any():
            return np.zeros_like(body)
        return flood.flooded(Ground(colours, body), stroke, self.keep_marks & body, stroke)

    def _bodies(self, labels: set[int]) -> dict[int, Cells]:
        """Return the cells of each of the parts to divide.

        Raises:
            InvalidOptions: they are too many for their size.

        """
        bodies = {label: (self.labels == label) & self.strong for label in sorted(labels)}
        if sum(map(flood.cells_around, bodies.values())) > MOST_DIVIDED * CELLS**2:
            raise InvalidOptions(
                "Too many large parts have points both to keep and to drop. Give points of both kinds to fewer parts,"
                " or draw strokes."
            )
        return bodies

    def _divided(self, colours: Values, label: int, body: Cells) -> Cells:
        """Return the cells of a part with points of both kinds that are those of the points to drop."""
        drop = self._points(self.aim.drop, self.at_drop, label, body)
        keep = self._points(self.aim.keep, self.at_keep, label, body) | (self.keep_marks & body)
        if (drop & keep).any():
            raise InvalidOptions(
                "A point to keep is at the same spot as a point to drop, or nearly. Move them apart, or leave one out."
            )
        return flood.parted(Ground(colours, body), drop, keep)

    def _points(self, spots: tuple[Spot, ...], labels: list[int], label: int, body: Cells) -> Cells:
        """Return the cells of a part at, or else nearest to, the points that mean it, and those beside them.

        `labels` are the parts that the points mean.
        """
        rows, columns = np.nonzero(body)
        marked = np.zeros_like(body)
        for spot, its_own in zip(spots, labels, strict=True):
            if its_own == label:
                row, column = self.grid.cell(spot)
                nearest = np.hypot(rows - row, columns - column).argmin()
                marked[rows[nearest], columns[nearest]] = True
        beside: Cells = grown(marked) & body
        return beside


def _marked(strokes: Strokes | None, grid: Grid) -> Cells:
    """Return the cells that strokes mark: at least half of them, or any of them where the stroke is thinner."""
    if strokes is None:
        return np.zeros(grid.shape, np.bool_)
    shares = strokes.shares(grid.shape[0], grid.shape[1], grid.rows, grid.columns)
    full: Cells = shares >= 0.5
    marked: Cells = full | ((shares > 0) & ~grown(full))
    return marked


def _holes(subject: Cells, open_cells: Cells, left_open: Cells) -> Cells:
    """Return the cells of holes that the subject encloses, also of those smaller than a cell.

    `open_cells` have background somewhere; holes that are marked by `left_open` stay.
    """
    outside = np.pad(~subject, 1, constant_values=True)
    rim = np.zeros_like(outside)
    rim[0] = rim[-1] = rim[:, 0] = rim[:, -1] = True
    reached = connected(rim, outside)
    inside = ~grown(reached)[1:-1, 1:-1]
    holes = inside & open_cells
    filled: Cells = holes & ~connected(holes & left_open, holes)
    return filled


def _weights(labels: Labels, shown: Cells, stays: set[int]) -> Cells:
    """Return where parts stay: a few cells further, so that the weights are level wherever an alpha is not 0."""
    states = np.where(labels > 0, np.where(np.isin(labels, list(stays)), KEPT, DROPPED), 0)
    staying: Cells = spread(states, states == 0, BEYOND) != DROPPED
    return staying


def _with_soft_edge(removed: Cells, picked: "_Picked", shown: Cells) -> Cells:
    """Return what is removed of parts, with its soft edge."""
    states = np.where(picked.strong, KEPT, 0)
    states[removed] = DROPPED
    states = spread(states, shown & (states == 0))
    gone: Cells = spread(states, states == 0, BEYOND) == DROPPED
    return gone
