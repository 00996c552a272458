"""Floods along a photo's edges: which cells belong to a stroke, and which to what is beside it.

First, what is connected to the stroke and has its colours belongs to it, and what has other colours does not. Which
colours are the stroke's is a question of counts: it has more of them than the rest. So a stroke that is wider than a
strap does not take the background with it.

Then each cell that is left belongs to whichever is nearer. A step is as long as the photo changes from one cell to the
next, in its colours and in how much they are the stroke's: a way across an edge is long, and so a flood ends there (Bai
and Sapiro, "A geodesic framework for fast interactive image and video segmentation and matting", 2007; Criminisi and
others, "GeoS: geodesic image segmentation", 2008). The distances are found by sweeps over rows and columns (Weber and
others, "Parallel algorithms for approximation of distance maps on parametric surfaces", 2008).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from cutout.inference.matting.cells import Cells, Values, at_least, connected, labelled

# Levels of each of red, green and blue that are told apart in counts of colours.
LEVELS = 16
# Every colour counts as seen this many times as often as if all colours were equally frequent.
UNSEEN = 0.25
# A colour is the stroke's, in doubt, surely, and surely not, by its likelihood's share there.
STROKES, SURELY, RIVALS = 0.5, 0.65, 0.35
# An island of other colours within the stroke's belongs to it if it has less than this share of all cells.
ISLAND = 0.002
# Apart from both seeds of touching subjects, the colours of an area with at least this share of all cells tell whose it is.
LARGE = 0.015
COUNTS = 2
# The length of a step is the change of colours, of 0…1 each, and of that share by this factor, and for each cell…
SHARE_LENGTH, CELL_LENGTH = 0.5, 0.003
# …and in a narrow place, this divided by the squared distance from its rim in cells: subjects of one colour part there.
NARROW_LENGTH = 0.03
SWEEPS = 3
# A place is narrow if it is less than this share as deep as what lies on both sides of it; depths are up to so many cells.
NARROW, MOST_DEEP = 0.7, 64
FAR = np.float32(1e9)

Stack = npt.NDArray[np.float32]  # [n,h,w]


@dataclass(frozen=True)
class Ground:
    """What a flood may reach: `colours`, float32 [h,w,3] of 0…1, are the photo's, and it stays `within`, bool [h,w]."""

    colours: Values = field(repr=False)
    within: Cells = field(repr=False)


def flooded(ground: Ground, stroke: Cells, rivals: Cells, sure: Cells) -> Cells:
    """Return the cells, bool [h,w], that a stroke floods to.

    `rivals` are cells that it does not reach. Connected pieces of the stroke that have any cell in `sure` always flood
    from there; the others only from cells that have the stroke's colours.
    """
    within, size = ground.within, stroke.size
    rest = within & ~stroke
    share = _share(ground.colours, stroke, rest)
    smooth = _smooth(share)
    start = stroke & within & ~rivals
    alike = start & (share >= STROKES)
    pieces = labelled(start)
    poor = np.zeros(size + 1, np.bool_)
    poor[pieces[start & sure]] = True
    poor[pieces[alike]] = False
    seeds = alike | (start & poor[pieces])
    seeds = connected(seeds, within & ~rivals & ((smooth >= SURELY) | seeds))
    others = at_least(rest & ~seeds & (smooth < RIVALS), ISLAND * size) | (rivals & within)
    reached = nearer(ground, share, seeds, others)
    left = within & ~reached
    islands: Cells = left & ~at_least(left, ISLAND * size) & ~others
    return reached | islands


def parted(ground: Ground, one: Cells, other: Cells) -> Cells:
    """Return the cells, bool [h,w], of one of two subjects that touch; `one` and `other` are a few cells on each.

    Only the ground and the cells beside it are looked at.
    """
    found = np.zeros_like(ground.within)
    around = _around(ground.within)
    inner = Ground(ground.colours[around], ground.within[around])
    found[around] = _parted(inner, one[around], other[around], LARGE * found.size)
    return found


def cells_around(marked: Cells) -> int:
    """Return how many cells `parted` looks at."""
    return int(marked[_around(marked)].size)


def _around(marked: Cells) -> tuple[slice, slice]:
    """Return the rows and columns of marked cells and of those beside them."""
    rows, columns = (np.flatnonzero(marked.any(axis)) for axis in (1, 0))
    return slice(max(0, rows[0] - 1), rows[-1] + 2), slice(max(0, columns[0] - 1), columns[-1] + 2)


def _parted(ground: Ground, one: Cells, other: Cells, large: float) -> Cells:
    """Return the cells of one of two subjects.

    Areas of at least `large` cells, and what is connected to a seed, are its subject's if they have a colour that only that seed has. Where
    the ground is narrow between the two, it is divided there.
    """
    mine, others = one, other
    for _ in range(COUNTS):  # those of the seeds first, then those of what they have reached
        share = _share(ground.colours, mine, others)
        smooth = _smooth(share)
        mine = _area(ground.within & ~others & ((smooth >= SURELY) | one), one, large)
        others = _area(ground.within & ~mine & ((smooth <= 1 - SURELY) | other), other, large)
    depth = _depth(ground)
    core, other_core = _cores(ground, depth, one, other)
    length: Values = (CELL_LENGTH + NARROW_LENGTH / np.maximum(depth, 1) ** 2).astype(np.float32)
    return nearer(ground, share, mine | (core & ~others), others | (other_core & ~mine), length)


def _area(marked: Cells, seed: Cells, large: float) -> Cells:
    """Return the marked cells that are connected to a seed, and areas of others of at least `large` cells."""
    return connected(seed, marked) | at_least(marked, large)


def _cores(ground: Ground, depth: Values, one: Cells, other: Cells) -> tuple[Cells, Cells]:
    """Return what is connected to each of two seeds so far inside of the ground that a narrow place parts them.

    Where no place between them is narrow, these are the seeds.
    """
    cores = one, other
    connects, parts = 0, MOST_DEEP
    while parts - connects > 1:
        level = (connects + parts) // 2
        deep = (depth > level) | one | other
        core = connected(one, deep)
        if (core & other).any():
            connects = level
        else:
            parts, cores = level, (core, connected(other, deep))
    is_narrow = parts <= NARROW * min(depth[core].max() for core in cores)
    return cores if is_narrow else (one, other)


def _depth(ground: Ground) -> Values:
    """Return how many cells each cell is away from what is outside of the ground."""
    flat = np.ones(ground.within.shape, np.float32)
    depth: Values = _distances(flat[None], flat, np.ones_like(ground.within), [~ground.within])[0]
    return depth


def nearer(ground: Ground, share: Values, one: Cells, other: Cells, length: Values | None = None) -> Cells:
    """Return the cells that are nearer to `one` than to `other`, by ways that stay within the ground.

    `share`, float32 [h,w] of 0…1, is how much a cell's colour is that of `one`. `length`, [h,w], is the length of a way
    through each cell where the photo does not change.
    """
    if length is None:
        length = np.full(share.shape, CELL_LENGTH, np.float32)
    features = np.concatenate([np.moveaxis(ground.colours, 2, 0), SHARE_LENGTH * share[None]])
    mine, others = _distances(features, length, ground.within, [one, other])
    found: Cells = (mine < others) & ground.within
    return found


def _share(colours: Values, stroke: Cells, rest: Cells) -> Values:
    """Return for each cell, float32 [h,w] of 0…1, how likely its colour is in the stroke, in parts of both likelihoods."""
    levels = np.minimum((colours * LEVELS).astype(np.int64), LEVELS - 1)
    place = (levels[..., 0] * LEVELS + levels[..., 1]) * LEVELS + levels[..., 2]
    of_stroke, of_rest = _counted(place[stroke]), _counted(place[rest])
    unseen = UNSEEN / LEVELS**3
    shares = ((of_stroke + unseen) / (of_stroke + of_rest + 2 * unseen)).astype(np.float32)
    share: Values = shares[place]
    return share


def _counted(places: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return how often each colour is, as a share of all, spread over the colours beside it: float64 [LEVELS³]."""
    counts: npt.NDArray[Any] = np.bincount(places, minlength=LEVELS**3) / max(1, places.size)
    counts = counts.reshape((LEVELS,) * 3)
    for axis in (0, 1, 2) * 2:
        moved = np.moveaxis(counts, axis, 0)
        around = np.concatenate([moved[:1], moved, moved[-1:]])
        counts = np.moveaxis(around[:-2] / 4 + moved / 2 + around[2:] / 4, 0, axis)
    return counts.ravel()


def _smooth(values: Values) -> Values:
    """Return the mean of each cell and its eight neighbours."""
    around = np.pad(values, 1, mode="edge")
    rows = around[:-2] + around[1:-1] + around[2:]
    smooth: Values = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return smooth


def _distances(features: Stack, length: Values, within: Cells, seeds: list[Cells]) -> Stack:
    """Return the distance of each cell from each of the seeds, [n,h,w]; FAR or more where no way leads."""
    found = np.full((len(seeds), *within.shape), FAR, np.float32)
    for one, where in zip(found, seeds, strict=True):
        one[where & within] = 0
    down = _steps(features, length, within)
    across = _steps(features.swapaxes(1, 2), length.T, within.T)
    for _ in range(SWEEPS):
        before = found.copy()
        _sweep(found, down)
        turned = np.ascontiguousarray(found.swapaxes(1, 2))
        _sweep(turned, across)
        found = np.ascontiguousarray(turned.swapaxes(1, 2))
        if (found == before).all():
            break
    return found


def _steps(features: Stack, length: Values, within: Cells) -> list[Values]:
    """Return the lengths of the steps from each row to the next, [h-1,·]: to the column on the left, straight, right."""
    wall = np.where(within, np.float32(0), FAR)
    steps, width = [], within.shape[1]
    for aside in (-1, 0, 1):
        near = slice(max(0, -aside), width - max(0, aside))
        far = slice(max(0, aside), width - max(0, -aside))
        change = features[:, 1:, far] - features[:, :-1, near]
        step = np.sqrt(np.einsum("fyx,fyx->yx", change, change))
        step += (length[1:, far] + length[:-1, near]) * np.float32(0.5 * (1 + aside * aside) ** 0.5)
        step += wall[1:, far] + wall[:-1, near]
        steps.append(np.ascontiguousarray(step))
    return steps


def _sweep(found: Stack, steps: list[Values]) -> None:
    """Shorten the distances, in place, by ways from each row to the next, down and up."""
    left, straight, right = steps
    last = found.shape[1] - 1
    for row in range(last):
        here, there = found[:, row], found[:, row + 1]
        np.minimum(there, here + straight[row], out=there)
        np.minimum(there[:, 1:], here[:, :-1] + right[row], out=there[:, 1:])
        np.minimum(there[:, :-1], here[:, 1:] + left[row], out=there[:, :-1])
    for row in range(last - 1, -1, -1):
        here, there = found[:, row + 1], found[:, row]
        np.minimum(there, here + straight[row], out=there)
        np.minimum(there[:, :-1], here[:, 1:] + right[row], out=there[:, :-1])
        np.minimum(there[:, 1:], here[:, :-1] + left[row], out=there[:, 1:])
