"""Hard edges of products: found in the mask, and sharpened to one smooth step instead of following every detail.

Along the edge of a box or a bottle, alpha is a step as wide as the lens makes it, and what the photo shows beside it is
print, knitting, reflections and traces of JPEG. There the refinement by colour lines would turn such detail into holes
and fringes. A mask of the right shape shows such an edge as a blurred step; so the step is given back its width, around
the place where the mask has it, or the photo, as far as the mask is unsure.

An edge counts as hard where the mask goes from background to subject within a few of its pixels, along one boundary.
Hair, fur, defocus and glass are in between for longer, lace has many boundaries, thin wires never reach the subject's
opacity: these keep the refinement.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.matting.unknown_region import UnknownRegion
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
# The photo's edge is sought beside the mask's, in windows of this radius of a grid of half the size: roughly for the width
# of the step, then exactly; it is found where the difference from the photo becomes smaller than this share.
ROUGHLY, EXACTLY = tuple(step / 2 for step in range(-6, 7)), tuple(step / 4 for step in range(-6, 7))
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


def find(mask: Tensor, explained: Tensor) -> HardEdges:
    """Find the hard edges of a mask, float [1,1,h,w] of 0…1; `explained` is the share of it that colours explain."""
    steps = ((window_max(-mask, REACH) > -STEP[0]) & (window_max(mask, REACH) > STEP[1])).float()
    middle = ((mask > 0.2) & (mask < 0.8)).float()
    share = window_mean(steps * middle, WINDOW) / window_mean(middle, WINDOW).clamp(min=1e-6)
    crowd = window_mean(((mask > 0.25) & (mask < 0.75)).float(), WINDOW)
    crowd = window_max(crowd, WINDOW)
    weight = _between(share, *SHARE) * (1 - _between(crowd, *CROWDED)) * _between(explained, *EXPLAINED)
    contour = ((mask > 0.1) & (mask < 0.9)).float()
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
    near = (pixels.mask - 0.5).abs() < NEAR
    differences = partial(_differences, edges, pixels, near, band)
    # The width is judged around the photo's own edge: around another place every step looks too sharp.
    lowest, best = differences(USUAL_WIDTH * scale, ROUGHLY).min(0, keepdim=True)
    apart = (best - len(ROUGHLY) // 2) * (ROUGHLY[1] - ROUGHLY[0])
    around, contradiction = band.at(torch.cat([apart, _along(edges, lowest)], 1), pixels.place)
    width = _width(pixels, near & (pixels.weight > 0.5), around, scale)
    limit = _uncertainty(edges)
    moved = _along(edges, _lowest(differences(width * scale, EXACTLY)))
    shift = band.at(torch.maximum(torch.minimum(moved, limit + OUTWARDS), -limit - INWARDS), pixels.place)[0]
    weight = pixels.weight * (1 - _between(contradiction, *CONTRADICTED))
    return _step(pixels, shift, width * scale), weight


def _step(pixels: EdgePixels, shift: Tensor | float, width: float) -> Tensor:
    """Return a step of this width around the mask's contour, moved outwards by `shift`; never softer than the mask."""
    steepness = (pixels.slope * width).clamp(min=1e-4, max=1)
    return (0.5 + (pixels.mask - 0.5 + shift * pixels.slope) / steepness).clamp(0, 1)


def _width(pixels: EdgePixels, certain: Tensor, shift: Tensor, scale: float) -> float:
    weight = certain.float()
    if float(weight.sum()) < FEWEST:
        return USUAL_WIDTH
    errors = torch.stack(
        [((pixels.photo - _step(pixels, shift, width * scale)).abs() * weight).sum() for width in WIDTHS]
    )
    return WIDTHS[int((errors <= AS_WELL * errors.min()).nonzero()[-1])]


def _differences(
    edges: HardEdges,
    pixels: EdgePixels,
    near: Tensor,
    band: UnknownRegion,
    width: float,
    shifts: Sequence[float],
) -> Tensor:
    """Return how much the step differs from the photo near each place, for each shift: [shifts,1,⌈h/2⌉,⌈w/2⌉]."""
    rows, columns = ((length + 1) // 2 for length in edges.contour.shape[2:])
    row, column = band.row_and_column(pixels.place)
    cell = row // 2 * columns + column // 2
    weight = near.float()

    def by_cell(values: Tensor) -> Tensor:
        cells = torch.zeros(rows * columns, device=values.device).index_add_(0, cell, values)
        return window_mean(cells.view(1, 1, rows, columns), SEARCH_WINDOW)

    count = by_cell(weight).clamp(min=1e-6)

    def difference(shift: float) -> Tensor:
        return by_cell((pixels.photo - _step(pixels, shift, width)).abs() * weight) / count

    return torch.cat(in_parts(difference, shifts, weight.device))


def _lowest(errors: Tensor) -> Tensor:
    """Return the shift of EXACTLY with the lowest error, 0 where it is not clearly better than none: [1,1,h,w]."""
    lowest, best = errors.min(0, keepdim=True)
    inner = best.clamp(1, len(EXACTLY) - 2)
    before, here, after = (errors.gather(0, inner + step) for step in (-1, 0, 1))
    # The lowest point of the parabola through three neighbours.
    beyond = ((before - after) / (2 * (before - 2 * here + after)).clamp(min=1e-6)).clamp(-0.5, 0.5)
    middle = len(EXACTLY) // 2
    shift = (inner - middle + beyond) * (EXACTLY[1] - EXACTLY[0])
    return shift * (lowest < BETTER * errors[middle : middle + 1])


def _along(edges: HardEdges, values: Tensor) -> Tensor:
    """Average values, [1,1,⌈h/2⌉,⌈w/2⌉], along the contour."""
    contour = F.max_pool2d(edges.contour, 2, ceil_mode=True)
    return window_mean(values * contour, WINDOW // 2) / window_mean(contour, WINDOW // 2).clamp(min=1e-6)


def _uncertainty(edges: HardEdges) -> Tensor:
    """Return how far the mask's edge is uncertain: [1,1,⌈h/2⌉,⌈w/2⌉]. A network's mask is less steep where it guesses."""
    slope, weight = edges.fields.split(1, 1)
    length = 1 / slope.clamp(min=0.05)
    hard = length[(edges.contour > 0) & (weight > 0.5)]
    usual = hard.sort().values[int(STEEPEST * len(hard))] if len(hard) else length.new_tensor(torch.inf)
    limit = (UNCERTAIN * (length - usual)).clamp(0, FURTHEST)
    return -F.max_pool2d(-limit, 2, ceil_mode=True)


def _slope(mask: Tensor) -> Tensor:
    padded = F.pad(mask, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.hypot(across, down)


def _between(values: Tensor, low: float, high: float) -> Tensor:
    return ((values - low) / (high - low)).clamp(0, 1)
