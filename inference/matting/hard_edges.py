"""Hard edges of products: found in the mask, and sharpened to one smooth step instead of following every detail.

Along the edge of a box or a bottle, alpha is a step as wide as the lens makes it, and what the photo shows beside it is
print, knitting, reflections and traces of JPEG. There the refinement by colour lines would turn such detail into holes
and fringes. A mask of the right shape shows such an edge as a blurred step; so the step is given back its width, around
the place where the mask has it, or the photo, as far as the mask is unsure.

An edge counts as hard where the mask goes from background to subject within a few of its pixels, along one boundary.
Hair, fur, defocus and glass are in between for longer, lace has many boundaries, thin wires never reach the subject's
opacity: these keep the refinement.
"""

from dataclasses import dataclass, field
from functools import cache, cached_property, partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.matting.unknown_region import UnknownRegion, sampled
from cutout.inference.matting.windows import window_max, window_mean

# All lengths that do not name the photo's pixels are in pixels of the mask's scale.
# A hard edge goes from below the first to above the second value within REACH of every place on it.
STEP, REACH = (0.1, 0.9), 3
# The share of such places among those on the contour, in a window of radius WINDOW, from which the edge is partly and
# wholly hard.
SHARE, WINDOW = (0.5, 0.8), 4
# One boundary covers about a fifth of a window; beyond these shares there are several.
CROWDED = (0.23, 0.30)
# Widths of the step that are tried, in the photo's pixels. The widest counts that fits as well as the best, up to this
# factor: an edge that is too sharp is worse than one that is a little soft.
WIDTHS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0, 12.0, 16.0)
AS_WELL = 1.03
# The photo's edge is sought beside the mask's at this many places, so far apart: roughly for the width of the step, then
# exactly; in windows of this radius of a grid of half the size. It is found where the difference from the photo becomes
# smaller than this share.
SHIFTS, ROUGHLY, EXACTLY = 13, 0.5, 0.25
SEARCH_WINDOW, BETTER = 1, 0.85
# The edge moves there, but never further than the mask is uncertain: where the mask goes from 0 to 1 less steeply than in
# the steepest quarter of its hard edges, by this share of the additional length, up to the second value. Anywhere it may
# move by the next two: inwards further, because a rim of the old background is worse than a sliver that is missing.
UNCERTAIN, FURTHEST, INWARDS, OUTWARDS = 1.3, 1.5, 0.25, 0.1
STEEPEST = 0.25
# Without this share of the mask explained by colours, the photo says nothing, and the mask's edge is kept. With mean
# differences from the photo between these values, wherever the step is, the edge is out of focus, and is refined.
EXPLAINED, CONTRADICTED = (0.3, 0.6), (0.25, 0.32)
# Width and place of the step are judged where the mask is within NEAR of 0.5.
NEAR = 0.47
# With fewer pixels than this, widths are not compared.
FEWEST, USUAL_WIDTH = 100, 2.0


@dataclass(frozen=True)
class HardEdges:
    """Where a mask's edges are hard.

    `fields`, float [1,2,h,w]: the mask's slope across the edge, per pixel of the mask's scale; and the weight, 0…1, of
    the hard edge against the refinement. `contour`, 0/1 [1,1,h,w], marks the edge.
    """

    fields: Tensor = field(repr=False)
    contour: Tensor = field(repr=False)


@dataclass(frozen=True)
class EdgePixels:
    """The photo's pixels at hard edges, each [N]: index, and what the mask and the photo say there.

    `mask` is the enlarged mask's value; `photo` the alpha, 0…1, that the colours alone would give; `slope` and `weight`
    are as in `HardEdges`.
    """

    place: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)
    photo: Tensor = field(repr=False)
    slope: Tensor = field(repr=False)
    weight: Tensor = field(repr=False)

    @cached_property
    def above(self) -> Tensor:
        """How far the enlarged mask is above its contour, -0.5…0.5, [N]."""
        return self.mask - 0.5


def find(mask: Tensor, explained: Tensor) -> HardEdges:
    """Find the hard edges of a mask, float [1,1,h,w] of 0…1; `explained` is the share of it that colours explain."""
    steps = ((window_max(-mask, REACH) > -STEP[0]) & (window_max(mask, REACH) > STEP[1])).float()
    apart = (mask - 0.5).abs()
    middle, inner, contour = ((apart < limit).float() for limit in (0.3, 0.25, 0.4))
    means = window_mean(torch.cat([steps * middle, middle, inner], 1), WINDOW)
    share, count, crowd = means.split(1, 1)
    share = share / count.clamp(min=1e-6)
    crowd = window_max(crowd, WINDOW)
    weight = _between(share, *SHARE) * (1 - _between(crowd, *CROWDED)) * _between(explained, *EXPLAINED)
    return HardEdges(torch.cat([window_max(_slope(mask), 2), weight], 1), contour)


def sharpened(
    edges: HardEdges, pixels: EdgePixels, band: UnknownRegion, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the alpha of each pixel at one step, and its weight, both [N] of 0…1.

    `scale` is the length of the photo's pixel at the mask's scale, up to 1. The width of the step is the one, for the
    whole photo, that differs least from what the colours say.
    """
    if not len(pixels.place):
        return pixels.mask, pixels.weight
    near = pixels.above.abs() < NEAR
    row, column = band.pixels_at(pixels.place)
    grid = band.grid(row, column)
    differences = partial(_differences, pixels, _HalfGrid(band, row, column, near.float()))
    contour = F.max_pool2d(edges.contour, 2, ceil_mode=True)
    # The width is judged around the photo's own edge: around another place every step looks too sharp.
    lowest, best = differences(USUAL_WIDTH * scale, ROUGHLY).min(0, keepdim=True)
    apart = (best - SHIFTS // 2) * ROUGHLY
    around, contradiction = sampled(torch.cat([apart, _along(contour, lowest)], 1), grid)
    width = _width(pixels, near & (pixels.weight > 0.5), around, scale)
    limit = _uncertainty(edges)
    moved = _along(contour, _lowest(differences(width * scale, EXACTLY)))
    shift = sampled(torch.maximum(torch.minimum(moved, limit + OUTWARDS), -limit - INWARDS), grid)[0]
    weight = pixels.weight * (1 - _between(contradiction, *CONTRADICTED))
    return _step(pixels, shift, width * scale), weight


def _step(pixels: EdgePixels, shift: Tensor, width: Tensor | float) -> Tensor:
    """Return a step of this width around the mask's contour, moved outwards by `shift`; never softer than the mask.

    Shifts and widths are one for all pixels, or [K,1] for K steps.
    """
    steepness = (pixels.slope * width).clamp_(min=1e-4, max=1)
    return torch.addcmul(pixels.above, pixels.slope, shift).div(steepness).add_(0.5).clamp_(0, 1)


def _width(pixels: EdgePixels, certain: Tensor, shift: Tensor, scale: float) -> Tensor:
    weight, widths = certain.float(), _widths(certain.device)

    def error(width: Tensor) -> Tensor:
        off = (_step(pixels, shift, width[:, None] * scale) - pixels.photo).abs_()
        return off @ weight

    errors = torch.cat(in_parts(error, _at_once(widths), widths.device))
    best = torch.where(errors <= AS_WELL * errors.min(), widths, 0).max()
    return torch.where(weight.sum() < FEWEST, USUAL_WIDTH, best)


class _HalfGrid:
    """Averages over small windows of a grid of half the mask's size, of values of pixels that have weights, [N]."""

    def __init__(self, band: UnknownRegion, row: Tensor, column: Tensor, weight: Tensor) -> None:
        """Take the pixels' rows and columns in the picture."""
        self.rows, self.columns = ((length + 1) // 2 for length in band.size)
        row, column = band.cells_at(row, column)
        self.cell = (row // 2).mul_(self.columns).add_(column // 2)
        self.weight = weight
        self.count = self._sums(weight[None]).clamp_(min=1e-6)

    def means(self, values: Tensor) -> Tensor:
        """Average values, [K,N], which are changed: [K,1,⌈h/2⌉,⌈w/2⌉]."""
        return self._sums(values.mul_(self.weight)).div_(self.count)

    def _sums(self, values: Tensor) -> Tensor:
        cells = values.new_zeros(len(values), self.rows * self.columns).index_add_(1, self.cell, values)
        return window_mean(cells.view(-1, 1, self.rows, self.columns), SEARCH_WINDOW)


def _differences(pixels: EdgePixels, grid: _HalfGrid, width: Tensor | float, apart: float) -> Tensor:
    """Return how much the step differs from the photo near each place, for each shift: [SHIFTS,1,⌈h/2⌉,⌈w/2⌉]."""

    def difference(shift: Tensor) -> Tensor:
        return grid.means((_step(pixels, shift[:, None], width) - pixels.photo).abs_())

    shifts = torch.arange(-(SHIFTS // 2), SHIFTS // 2 + 1, device=pixels.place.device) * apart
    return torch.cat(in_parts(difference, _at_once(shifts), shifts.device))


def _at_once(steps: Tensor) -> tuple[Tensor, ...]:
    """Split steps that are tried, [K], into those that are computed at once: all on a GPU, one by one on a CPU's cores."""
    parts: tuple[Tensor, ...] = steps.split(1 if steps.device.type == "cpu" else len(steps))
    return parts


@cache
def _widths(device: torch.device) -> Tensor:
    return torch.tensor(WIDTHS, device=device)


def _lowest(errors: Tensor) -> Tensor:
    """Return the shift with the lowest error, 0 where it is not clearly better than none: [1,1,h,w]."""
    lowest, best = errors.min(0, keepdim=True)
    inner = best.clamp(1, SHIFTS - 2)
    before, here, after = errors.gather(0, torch.cat([inner - 1, inner, inner + 1])).split(1)
    # The lowest point of the parabola through three neighbours.
    beyond = ((before - after) / (2 * (before - 2 * here + after)).clamp(min=1e-6)).clamp(-0.5, 0.5)
    middle = SHIFTS // 2
    shift: Tensor = (inner - middle + beyond) * EXACTLY
    return shift * (lowest < BETTER * errors[middle : middle + 1])


def _along(contour: Tensor, values: Tensor) -> Tensor:
    """Average values along a contour, both [1,1,⌈h/2⌉,⌈w/2⌉]."""
    sums, count = window_mean(torch.cat([values * contour, contour], 1), WINDOW // 2).split(1, 1)
    means: Tensor = sums / count.clamp(min=1e-6)
    return means


def _uncertainty(edges: HardEdges) -> Tensor:
    """Return how far the mask's edge is uncertain: [1,1,⌈h/2⌉,⌈w/2⌉]. A network's mask is less steep where it guesses."""
    slope, weight = edges.fields.split(1, 1)
    length = 1 / slope.clamp(min=0.05)
    hard = length[(edges.contour > 0) & (weight > 0.5)]
    usual = hard.sort().values[int(STEEPEST * len(hard))] if len(hard) else length.new_tensor(torch.inf)
    limit = (UNCERTAIN * (length - usual)).clamp(0, FURTHEST)
    return -F.max_pool2d(-limit, 2, ceil_mode=True)


def _slope(mask: Tensor) -> Tensor:
    wider, higher = (F.pad(mask, around, mode="replicate") for around in ((1, 1, 0, 0), (0, 0, 1, 1)))
    height, width = mask.shape[2:]
    across = wider.narrow(3, 2, width) - wider.narrow(3, 0, width)
    down = higher.narrow(2, 2, height) - higher.narrow(2, 0, height)
    return torch.hypot(across, down) / 2


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)
