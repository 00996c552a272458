"""The subject's own shadow in a photo: how much darker a plain ground is beside the subject than elsewhere.

A shadow on a plain ground is ground × (1 − opacity), alike in all three channels, and black with that opacity on another
ground is the same shadow. So the ground is fitted as a smooth surface that ignores what deviates from it, and the opacity
follows. A texture, an object or a second ground looks the same as a shadow to this. So nothing is kept unless the ground
around is plain: docs/pictures.md has the bounds.

All of it is computed on a small copy of the photo.
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.imaging.resize import resized_planes
from cutout.inference.matting.cells import connected
from cutout.inference.matting.mask import uploaded
from cutout.inference.matting.windows import window_max, window_mean

# The longer side of the small copy, in cells, and of how many of them a side the ground is fitted to the mean.
SIDE, COARSER = 512, 4
# The ground is a polynomial of the place. It is fitted again and again, each time with less weight on what deviates by more
# than a share of the ground's brightness; what is darker counts as further away than what is lighter. Degree and share of
# each time: a surface that could bend at once would bend towards what is beside the ground, and stay there.
STEPS = ((1, 0.2), (1, 0.1), (1, 0.06), (2, 0.06), (2, 0.04), (2, 0.03), (3, 0.03), (3, 0.02), (3, 0.02))
DARKER = 1.5
# Less opacity than the first of these is noise, and none of it is kept; from twice as much on all is. A shadow has the
# second somewhere within NEAR cells of the subject, and is connected to that.
LEAST, SURE, NEAR = 0.02, 0.05, 6
# How far the colour may be from a darker ground, in shares of its brightness: more where the shadow is darker.
COLOURED, COLOURED_MORE = 0.03, 0.15
# The ground is plain if at most OTHERS of the cells within AROUND cells of subject and shadow differ by more than PLAIN.
# There must be GROUND of all cells of them, and none may be darker than DIM.
PLAIN, OTHERS, AROUND, GROUND, DIM = 0.03, 0.1, 40, 0.02, 0.15
# A second ground or an object is no shadow: it reaches from one border of the photo to the opposite one, or more than this
# share of all, or more than this share of it is darker than BLACK.
BORDER, BLACK_SHARE, BLACK = 0.15, 0.02, 0.85
# If the whole ground is not plain, what is below one of these shares of the subject's height may be: a table before a wall.
FEET = (0.25, 0.5, 0.75)
# Beneath the subject's edge the shadow goes on as it is around, in windows of these radii.
BENEATH = (3, 12)

Map = npt.NDArray[np.float32]
Cells = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Measured:
    """The ground and what differs from it, on the host, [h,w] each; all but `free` in parts of the ground's brightness.

    `opacity` is how much darker a cell is, `colour` by how much its colour is another one. `free` are the cells without
    any of the subject, `covered` those with some.
    """

    opacity: Map = field(repr=False)
    colour: Map = field(repr=False)
    brightness: Map = field(repr=False)
    free: Cells = field(repr=False)
    covered: Cells = field(repr=False)


def find(photo: Tensor, alpha: Tensor, own_alpha: Tensor | None = None) -> Tensor | None:
    """Return the opacity of the subject's shadow in a photo, float32 [1,1,h,w] of 0…1 over the whole photo; None if it has none.

    `photo` is uint8 [H,W,3]; `alpha`, uint8 [H,W], is the subject's; `own_alpha`, uint8 [H,W], is the photo's own
    transparency, where there is no ground. All are on one device.
    """
    height, width = alpha.shape
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    ground = alpha == 0 if own_alpha is None else (alpha == 0) & (own_alpha == 255)
    seen = resized_planes(ground.to(torch.uint8)[..., None] * 255, *size).float()
    covered = (seen < 254.5).float()
    free = 1 - window_max(covered, 1)
    small = _mean_of(resized_planes(photo, *size).float() / 255, free, 1)
    box_rows = np.flatnonzero(covered[0, 0].amax(1).cpu().numpy()).tolist()
    if not box_rows:
        return None
    top, tall = box_rows[0], box_rows[-1] + 1 - box_rows[0]
    for first in (0, *(top + int(share * tall) for share in FEET)):
        opacity = _opacity(*(one[:, :, first:] for one in (small, free, covered)), whole=first == 0)
        if opacity is not None:
            return _beneath(F.pad(opacity, (0, 0, first, 0)), free)
    return None


def _opacity(small: Tensor, free: Tensor, covered: Tensor, *, whole: bool) -> Tensor | None:
    """Return the shadow's opacity on the free cells of a small photo, [1,1,h,w]; None if the ground is not plain.

    `whole` is not set if there is more of the photo above.
    """
    ground = _ground(small, free)
    brightness = ground.amax(1, keepdim=True)
    # By least squares over the channels; what is left is another colour.
    darkened = (small * ground).sum(1, keepdim=True) / ground.square().sum(1, keepdim=True)
    colour = (small - darkened * ground).abs().amax(1, keepdim=True) / brightness
    fields = torch.cat([1 - darkened, colour, brightness, free, covered], 1)[0].cpu().numpy()
    kept = _kept(_Measured(*fields[:3], *(fields[3:] > 0)), whole=whole)
    if kept is None:
        return None
    opacity = (1 - darkened).clamp_(0, 1)
    return opacity * (opacity / LEAST - 1).clamp_(0, 1) * uploaded(kept, small.device)


def _ground(small: Tensor, free: Tensor) -> Tensor:
    """Fit the ground to the free cells of a small photo, [1,3,h,w], and return it for all cells."""
    rows, columns = small.shape[2:]
    share = F.avg_pool2d(free, COARSER, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(small * free, COARSER, ceil_mode=True, count_include_pad=False)
    # On the host, since on a GPU hundreds of operations would be started for so few cells.
    fields = torch.cat([coarse / share.clamp(min=1e-6), share], 1).cpu().view(4, -1)
    factors = _fitted(fields[:3], fields[3], rows, columns)
    placed = uploaded(factors.numpy(), small.device)[0, 0]
    ground = (placed @ _terms(rows, columns, STEPS[-1][0], 1, small.device)).clamp(1e-3, 1)
    return ground.view(1, 3, rows, columns)


def _fitted(colours: Tensor, weights: Tensor, rows: int, columns: int) -> Tensor:
    """Return the factors, [3,K], of the polynomial of the last step for coarse colours, [3,N], with weights, [N]."""
    counts = weights
    for degree, spread in STEPS:
        terms = _terms(rows, columns, degree, COARSER, colours.device)
        steady = 1e-6 * torch.eye(len(terms))
        counted = terms * (counts / counts.sum().clamp(min=1e-6))
        factors: Tensor = torch.linalg.solve(counted @ terms.t() + steady, counted @ colours.t()).t()
        fitted = (factors @ terms).clamp(1e-3, 1)
        difference = (colours - fitted) / fitted.amax(0)
        distance = difference.abs().amax(0) * torch.where(difference.sum(0) < 0, DARKER, 1.0)
        counts = weights / (1 + (distance / spread).square()).square()
    return factors


def _terms(rows: int, columns: int, degree: int, side: int, device: torch.device) -> Tensor:
    """Return the polynomial's terms, [K,N], in the middle of each square of `side` × `side` cells of a grid."""
    y, x = (
        (torch.arange(-(-length // side), device=device) + 0.5) * (2 * side / length) - 1
        for length in (rows, columns)
    )
    powers = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return torch.stack([(y**i)[:, None] * x**j for i, j in powers]).flatten(1)


def _kept(measured: _Measured, *, whole: bool) -> Cells | None:
    """Return which cells the shadow is on; None if there is none, or what is there may be something else."""
    opacity, free, covered = measured.opacity, measured.free, measured.covered
    shadow = free & (opacity >= LEAST) & (measured.colour <= COLOURED + COLOURED_MORE * opacity)
    sure = shadow & (opacity >= SURE) & _grown(covered, NEAR)
    if not sure.any():
        return None
    shadow = connected(sure, shadow)
    around = free & ~shadow & _grown(shadow | covered, AROUND)
    other = (np.abs(opacity) > PLAIN) | (measured.colour > PLAIN)
    if around.sum() < max(1, GROUND * free.size) or other[around].mean() > OTHERS:
        return None
    borders = shadow[0], shadow[-1], shadow[:, 0], shadow[:, -1]
    above, below, left, right = (bool(border.any()) for border in borders)
    if (above and (below or not whole)) or (left and right):  # it crosses the photo, or goes on above
        return None
    if np.concatenate(borders).mean() > BORDER or (opacity[shadow] > BLACK).mean() > BLACK_SHARE:
        return None
    return None if measured.brightness[shadow].min() < DIM else shadow


def _grown(cells: Cells, reach: int) -> Cells:
    """Return the cells within `reach` cells, along both axes, of marked ones."""
    for axis in (0, 1):
        around = [(reach + 1, reach) if axis == one else (0, 0) for one in (0, 1)]
        counts = np.pad(cells, around).cumsum(axis, np.int32)
        before = np.take(counts, range(cells.shape[axis]), axis)
        after = np.take(counts, range(2 * reach + 1, counts.shape[axis]), axis)
        cells = after > before
    return cells


def _beneath(opacity: Tensor, free: Tensor) -> Tensor:
    """Continue the opacity of the free cells, [1,1,h,w], on the others, where their share of a window is enough."""
    filled = opacity * free
    known = free
    for radius in BENEATH:
        mean = _mean_of(opacity, free, radius)
        filled = torch.where(known > 0, filled, mean)
        known = window_max(free, radius)
    return filled


def _mean_of(values: Tensor, weights: Tensor, radius: int) -> Tensor:
    """Return the weighted mean of [1,C,h,w] in windows; 0 where no cell has a weight."""
    sums = window_mean(torch.cat([values * weights, weights], 1), radius)
    mean: Tensor = sums[:, :-1] / sums[:, -1:].clamp(min=1e-6)
    return mean
