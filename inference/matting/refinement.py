"""Refinement of the subject's edge: alpha that follows the photo's detail, and colours without the old background.

A network's mask is a quarter of a large photo's size along each side, and softer than that size suggests. Two facts
help to recover the lost detail:

1. Within a few pixels, alpha is a linear function of colour (`colour_lines`).
2. A linear function that holds for a blurred photo also holds for the sharp one. So it is fitted to a photo blurred
   as much as the mask is, and then applied to the photo's full-size pixels.

All fitting is done at the mask's scale, in the tiles that the subject's edge crosses. At full size, only the band of
uncertain pixels is processed, in strips.
"""

from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.cores import in_parts
from cutout.inference.imaging.resize import resize_planes, resized_planes
from cutout.inference.matting import hard_edges
from cutout.inference.matting.colour_lines import (
    blurred,
    deviations,
    energy_along,
    fit_lines,
    overall_texture,
    texture,
)
from cutout.inference.matting.hard_edges import EdgePixels, HardEdges
from cutout.inference.matting.mask import enlarge, to_levels
from cutout.inference.matting.unknown_region import (
    SmallGrid,
    UnknownRegion,
    pixel_strips,
    sampled,
    see_through,
    uncertain,
)
from cutout.inference.matting.windows import in_tiles, window_max, window_mean

# The scale at which alpha and colours are fitted, in pixels along the longer side. Alpha is fitted at the mask's own
# size up to this; colours are fitted at half of it, because they change more slowly than alpha.
ALPHA_SIDE = 1024
COLOUR_SIDE = 512
# Of a copy made smaller, colours are fitted at half of that: on a screen the difference cannot be seen.
COPY_COLOUR_SIDE = 256

# A mask is softer than its size suggests. Blurring the photo with this sigma, in pixels of the mask, makes it as soft
# as the mask. With a real network's masks, 2 works nearly as well. At 0 the fit is a guided filter, which keeps the
# mask's softness.
MASK_BLUR = 1.0
# Values at the mask's scale are computed around its edge only; each depends on cells up to this many apart: 3 for the
# blur, 8 for the wide window, and for smoothing that fit at half size.
FIELD_REACH = 16
# Statistics of edges are taken up to so many cells around those that are asked for.
AROUND_NEAR = 8
# Detail is kept where its energy is more than this many times what texture and noise would cause.
NOISE_FACTOR = 3.0
# Where there is no detail, the fit does not override the mask unless their mean difference is more than this.
TOLERANCE = 0.1

# On the outer side of a hard edge, where the mask is below the first value and gradually within the second, colours are
# cleaned by what the photo shows.
OUTER, FADING = 0.9, 0.1

# A photo whose longer side is below the first of these shares of the mask's has no detail that the mask lacks, and is not
# refined; from the second on it is refined in full.
FINER_THAN_MASK = (0.7, 1.1)

# The size of the coarsest scale of colours: both begin with the photo's there.
COARSEST = 4
# The weight of the coarser scale's colours, expressed as a mean squared alpha in a window.
COLOUR_PULL = 0.1
COLOUR_WINDOW = 2
# How strongly a semi-transparent pixel follows the surrounding colours rather than its own.
COLOUR_STIFFNESS = 0.5


def refine(
    rgb: Tensor, mask: Tensor, near: Tensor | None = None, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return the alpha of the photo's size, float32 [H,W] of 0…1, that follows the photo's detail, and the coverage.

    The coverage, uint8 [H,W] of 0…255, is the subject's share of each of the photo's pixels, for `clean_colours`: the
    alpha, but on the outer side of hard edges no more than the photo shows. There the mask's step may enclose a sliver
    of the background, which would be a light rim on a dark ground.

    `rgb` is uint8 [H,W,3]; `mask` is float [1,1,h,w] of 0…1, on the same device. Where the mask is certain, it is
    enlarged bilinearly without other changes. Where the colours do not explain it, it is only sharpened a little. Hard
    edges become one step, whatever detail is beside them (`hard_edges`).

    With `near`, float [1,1,·,·], only the edges where it is not 0 are refined. `scale` is how many times larger than `rgb`
    the photo is that the result stands for: a copy made smaller is refined as far as the photo itself.
    """
    height, width = rgb.shape[:2]
    alpha = enlarge(mask, height, width)
    rows, columns = _scaled(height, width, min(ALPHA_SIDE, max(mask.shape)))
    small = _resized(rgb, rows, columns)
    coarse = resize_planes(mask.float(), rows, columns)
    cells = uncertain(coarse, reach=1)
    strength = _strength(scale * max(height, width) / max(mask.shape))
    deviation = deviations(rgb, small)
    certain = 1 - cells
    cells = cells if near is None else cells * _around(near, rows, columns)
    band = UnknownRegion(cells, height, width)
    compute = partial(_edge_fields, overall=overall_texture(deviation, certain), strength=strength)
    fields = in_tiles(compute, cells, FIELD_REACH, small, coarse, deviation, certain)
    edges = HardEdges(fields[:, 5:7], fields[:, 9:])
    pieces = in_parts(partial(_piece, rgb, alpha, band, fields[:, :7]), band.strips(), rgb.device)
    count, total, energy = torch.zeros(3, 1, rows * columns, device=rgb.device).split(1)
    for piece in pieces:
        count.index_add_(2, piece.cell, torch.ones_like(piece.detail)[None, None])
        total.index_add_(2, piece.cell, piece.detail[None, None])
    offset = _mean(total, count, cells, 2)
    in_parts(lambda piece: piece.detail.sub_(sampled(offset, piece.grid)[0]), pieces, rgb.device)
    for piece in pieces:
        energy.index_add_(2, piece.cell, piece.detail.square()[None, None])
    # Wiener gain: the share of the energy that exceeds that of texture and noise.
    unwanted, trust = fields[:, 8:9], fields[:, 7:8]
    gain = (1 - unwanted / _mean(energy, count, cells, 4).clamp_(min=1e-8)).clamp_(0, 1)
    tolerance = TOLERANCE * (1 - gain)
    offset = offset - offset.clamp(-tolerance, tolerance)
    weights = torch.cat([offset, gain, strength * trust], 1)

    flat = alpha.view(-1)

    def add_detail(piece: _Piece) -> None:
        shift, share, weight = sampled(weights, piece.grid)
        flat.index_add_(0, piece.place, (shift + piece.detail * share) * weight)

    in_parts(add_detail, pieces, rgb.device)
    alpha.clamp_(0, 1)
    places, shown = zip(*(piece.hard for piece in pieces), strict=True)
    pixels = EdgePixels(torch.cat(places), *torch.cat(shown, 1))
    sharp, weight = hard_edges.sharpened(edges, pixels, band, min(1.0, columns / width))
    return alpha, _cut(alpha, pixels, sharp, weight)


@dataclass(frozen=True)
class _Piece:
    """The unknown pixels of a strip: index, cell and detail, each [N], and where `sampled` finds them in small fields.

    Detail is the difference between what the colours say and the sharpened mask. `hard` are the index, [M], and the other
    fields of EdgePixels, [4,M], at hard edges.
    """

    place: Tensor = field(repr=False)
    cell: Tensor = field(repr=False)
    grid: Tensor = field(repr=False)
    detail: Tensor = field(repr=False)
    hard: tuple[Tensor, Tensor] = field(repr=False)


def _around(near: Tensor, rows: int, columns: int) -> Tensor:
    """Return the cells where a map is not 0 and those around them, 0/1 [1,1,rows,columns]."""
    return window_max((enlarge(near, rows, columns) > 0).float()[None, None], AROUND_NEAR)


def _mean(sums: Tensor, count: Tensor, like: Tensor, radius: int) -> Tensor:
    """Return the mean in windows of cells, of the size of `like`, from sums and counts in each cell, [1,1,h·w]."""
    both = torch.cat([sums, count], 1).unflatten(2, like.shape[2:])
    sums, counts = window_mean(both, radius).split(1, 1)
    means: Tensor = sums / counts.clamp_(min=1e-6)
    return means


def _piece(
    rgb: Tensor, alpha: Tensor, band: UnknownRegion, fields: Tensor, strip: tuple[slice, slice]
) -> _Piece:
    """Sharpen the mask, `alpha`, in place in the unknown pixels of a strip; return those and their detail."""
    place = band.pixels(strip)
    row, column = band.pixels_at(place)
    grid = band.grid(row, column)
    lines, (constant, crisp), edge = sampled(fields, grid).split((3, 2, 2))
    enlarged = alpha.view(-1)[place]
    start = (enlarged + crisp).clamp_(0, 1)
    alpha.view(-1)[place] = start
    found = (lines * _colours(rgb, place)).sum(0) + constant
    at = (edge[1] > 0).nonzero().flatten()
    shown = torch.cat([enlarged[None], found.clamp(0, 1)[None], edge])
    hard = place[at], shown.index_select(1, at)
    row, column = band.cells_at(row, column)
    return _Piece(place, row * band.size[1] + column, grid, (found - start).clamp_(-1, 1), hard)


def _cut(alpha: Tensor, pixels: EdgePixels, sharp: Tensor, weight: Tensor) -> Tensor:
    """Replace `alpha` at hard edges, in place, with their step; return the coverage."""
    flat = alpha.view(-1)
    shown = flat[pixels.place]
    flat[pixels.place] = cut = torch.lerp(shown, sharp, weight)
    coverage = to_levels(alpha)
    outer = ((OUTER - pixels.mask) / FADING).clamp_(0, 1)
    coverage.view(-1)[pixels.place] = to_levels(torch.lerp(cut, torch.minimum(cut, shown), outer))
    return coverage


def _edge_fields(
    small: Tensor, coarse: Tensor, deviation: Tensor, certain: Tensor, *, overall: Tensor, strength: float
) -> Tensor:
    """Return what refinement needs at the mask's scale, [1,10,h,w].

    These are the colour line's three factors and constant; how much crisper the mask becomes; the slope and the weight of
    hard edges; the share of the mask that colours explain; the energy that texture causes; the contour of hard edges.
    """
    lines, trust = fit_lines(blurred(small, MASK_BLUR), coarse)
    # A second blur removes about as much as the blur that the mask already has, so adding the difference sharpens it.
    crisper = strength * (coarse - blurred(coarse, MASK_BLUR))
    edges = hard_edges.find(coarse, trust)
    unwanted = NOISE_FACTOR * energy_along(lines, texture(deviation, certain, overall))
    return torch.cat([lines, crisper, edges.fields, trust, unwanted, edges.contour], 1)


def _strength(finer: float) -> float:
    low, high = FINER_THAN_MASK
    return min(1.0, max(0.0, (finer - low) / (high - low)))


def clean_colours(rgb: Tensor, alpha: Tensor, scale: float = 1.0) -> Tensor:
    """Remove the old background's colour from the semi-transparent pixels of a photo.

    `rgb` is uint8 [H,W,3] and `alpha` uint8 [H,W], the subject's share of each pixel; the result is a copy, uint8 [H,W,3]. Every pixel is modelled as the
    mixture alpha × foreground + (1 − alpha) × background. Both colours are estimated together, by least squares over
    small windows, from the coarsest scale up to COLOUR_SIDE, and each scale is pulled towards the coarser one before
    it (after Germer and others, "Fast Multi-Level Foreground Estimation", 2020, who smooth between neighbours instead).
    The estimate follows how the photo's colour changes with alpha, so hair keeps its own colour instead of that of the
    nearest opaque part. Opaque pixels are returned unchanged, bit for bit. `scale` is as in `refine`.
    """
    height, width = alpha.shape
    rows, columns = _scaled(height, width, COLOUR_SIDE if scale == 1 else COPY_COLOUR_SIDE)
    small = _resized(rgb, rows, columns)
    coarse = _resized(alpha[..., None], rows, columns)
    fields = _layers(small, coarse)
    cleaned = rgb.clone()
    grid = SmallGrid(rows, columns, height, width)

    def clean(strip: slice) -> None:
        place = see_through(alpha, strip)
        opacity = alpha.view(-1)[place].float().div_(255)
        foreground, background = sampled(fields, grid.grid(*grid.pixels_at(place))).split(3)
        clear = 1 - opacity
        error = _colours(rgb, place) - opacity * foreground - clear * background
        # The smallest change of both colours that explains the pixel, damped where the pixel is far from opaque.
        share = opacity / (opacity.square() + clear.square() + COLOUR_STIFFNESS * clear)
        colours = foreground + share * error
        cleaned.view(-1, 3)[place] = colours.mul_(255).round_().clamp_(0, 255).t().to(torch.uint8)

    in_parts(clean, pixel_strips(alpha), rgb.device)
    return cleaned


def _layers(colour: Tensor, alpha: Tensor) -> Tensor:
    """Estimate the foreground and background colours of a small photo, [1,3,h,w]: [1,6,h,w] of 0…1."""
    scales = [torch.cat([colour, alpha], 1)]
    while max(scales[-1].shape[2:]) > COARSEST:
        scales.append(F.avg_pool2d(scales[-1], 2, ceil_mode=True))
    layers = scales[-1][:, :3].repeat(2, 1, 1, 1)  # foreground and background, [2,3,h,w]
    for scale in reversed(scales):
        layers = window_mean(F.interpolate(layers, size=scale.shape[2:], mode="bilinear"), COLOUR_WINDOW)
        cell, opacity = scale.split((3, 1), 1)
        shares = torch.cat([opacity, 1 - opacity])
        errors = shares * (cell - (shares * layers).sum(0))
        product = shares.prod(0).expand(2, 1, -1, -1)
        means = window_mean(torch.cat([shares.square(), product, errors], 1), COLOUR_WINDOW)
        squares, product, errors = means.split((1, 1, 3), 1)
        squares = squares + COLOUR_PULL
        determinant = torch.addcmul(squares.prod(0), product, product, value=-1)
        change = torch.addcmul(squares.flip(0) * errors, product, errors.flip(0), value=-1)
        layers = layers.addcdiv_(change, determinant).clamp_(0, 1)
    return layers.flatten(0, 1)[None]


def _scaled(height: int, width: int, side: int) -> tuple[int, int]:
    scale = min(1.0, side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(picture: Tensor, rows: int, columns: int) -> Tensor:
    return resized_planes(picture, rows, columns) / 255


def _colours(rgb: Tensor, place: Tensor) -> Tensor:
    return rgb.view(-1, 3)[place].t() / 255
