"""Colour lines: alpha as a linear function of colour around each cell of a small grid, and how far that can be trusted.

Within a few pixels, the subject has about one colour and so has the background. So alpha is locally a linear function of
colour: Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting" (2008). It is fitted per window, as
in He, Sun and Tang, "Guided Image Filtering" (2010).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.matting.unknown_region import uncertain
from cutout.inference.matting.windows import window_mean

# Window radii: narrow ones for fine detail, wide ones for soft edges. Each fit is weighted by how well it explains the
# mask.
WINDOWS, COARSER_FROM = (2, 8), 4
# Added to each channel's variance, so that colours that differ by less than its square root, 0.5 % of the range, have
# no effect.
FLATNESS = 3e-5


def fit_lines(colour: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Fit alpha ≈ line · colour + constant around each pixel, in windows of several sizes.

    `colour` is [1,3,h,w] and `alpha` [1,1,h,w]. Returns the lines, [1,4,h,w] with the constant last, and the share of
    alpha's variance that they explain, [1,1,h,w].
    """
    lines, weights, best = torch.zeros_like(colour[:, :1]), torch.zeros_like(alpha), torch.zeros_like(alpha)
    for radius in WINDOWS:
        # Wide windows need no fine grid, and a quarter of the cells take a quarter of the time.
        step = 2 if radius > COARSER_FROM else 1
        both = torch.cat([colour, alpha], 1)
        if step > 1:
            both = F.avg_pool2d(both, step, ceil_mode=True)
        fit = torch.cat(_fit_window(both[:, :3], both[:, 3:], radius // step), 1)
        if step > 1:
            fit = F.interpolate(fit, scale_factor=step, mode="bilinear")[
                ..., : alpha.shape[2], : alpha.shape[3]
            ]
        line, explained = fit.split((4, 1), 1)
        weight = explained**4
        lines = lines + line * weight
        weights += weight
        best = torch.maximum(best, explained)
    return lines / weights.clamp(min=1e-8), best


def _fit_window(colour: Tensor, alpha: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    values = [*colour[0], alpha[0, 0]]
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (3, 3)]
    means = window_mean(torch.stack(values)[None], radius)[0]
    products = window_mean(torch.stack([values[i] * values[j] for i, j in pairs])[None], radius)[0]
    rr, rg, rb, gg, gb, bb, ra, ga, ba, aa = (
        products[k] - means[i] * means[j] for k, (i, j) in enumerate(pairs)
    )
    rr, gg, bb = rr + FLATNESS, gg + FLATNESS, bb + FLATNESS
    # Gaussian elimination. Cramer's rule would lose the determinant of nearly grey windows to rounding, and a general
    # solver for a million 3×3 systems takes longer than everything else together.
    share, other = rg / rr, rb / rr
    gg, gb, g_rest = gg - share * rg, gb - share * rb, ga - share * ra
    bb, b_rest = bb - other * rb, ba - other * ra
    share = gb / gg
    blue = (b_rest - share * g_rest) / (bb - share * gb)
    green = (g_rest - gb * blue) / gg
    red = (ra - rg * green - rb * blue) / rr
    explained = (red * ra + green * ga + blue * ba) / (aa.clamp(min=0) + 1e-5)
    line = torch.stack([red, green, blue])
    constant = means[3] - (line * means[:3]).sum(0)
    smooth = window_mean(torch.cat([line, constant[None], explained[None]])[None], 1)
    return smooth[:, :4], smooth[:, 4:].clamp(0, 1)


def deviations(rgb: Tensor, small: Tensor) -> Tensor:
    """Return how one pixel of each cell of a photo, uint8 [H,W,3], differs from its cell's colour, [1,3,h,w].

    `small` is the photo at the grid's size.
    """
    rows, columns = small.shape[-2:]
    row = _centres(rgb.shape[0], rows, rgb.device)
    column = _centres(rgb.shape[1], columns, rgb.device)
    return rgb.index_select(0, row).index_select(1, column).permute(2, 0, 1)[None] / 255 - small


def texture(deviation: Tensor, alpha: Tensor, overall: Tensor) -> Tensor:
    """Estimate the photo's variation within a cell where the mask is certain: texture, noise, JPEG artefacts.

    Returns the covariance of `deviation`, [1,6,h,w]: rr, gg, bb, rg, rb, gb. Far from any certain cell, a fifth of
    `overall`, that of the whole photo, is used.
    """
    certain = 1 - uncertain(alpha, reach=1)
    near = window_mean(torch.cat([_products(deviation) * certain, certain], 1), 6)
    return (near[:, :6] + 0.004 * overall) / (near[:, 6:] + 0.02)


def overall_texture(deviation: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean covariance of the certain cells of the whole photo, [1,6,1,1]; every fourth row and column counts."""
    certain = 1 - uncertain(alpha, reach=1)[..., ::4, ::4]
    products = _products(deviation[..., ::4, ::4]) * certain
    return products.mean((2, 3), keepdim=True) / certain.mean().clamp(min=1e-6)


def energy_along(lines: Tensor, covariance: Tensor) -> Tensor:
    """Return the variance that `covariance` causes along the colour lines, [1,1,h,w]."""
    red, green, blue, _ = lines.split(1, 1)
    rr, gg, bb, rg, rb, gb = covariance.split(1, 1)
    squares = red * red * rr + green * green * gg + blue * blue * bb
    crossed = red * green * rg + red * blue * rb + green * blue * gb
    return torch.clamp(squares + 2 * crossed, min=0)


def blurred(values: Tensor, sigma: float) -> Tensor:
    """Blur [1,C,h,w] with a Gaussian of `sigma` pixels."""
    radius = round(3 * sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        padded, length = F.pad(values, padding, mode="replicate"), values.shape[axis]
        values = torch.zeros_like(values)
        for start, weight in enumerate(weights):
            values.add_(padded.narrow(axis, start, length), alpha=weight / sum(weights))
    return values


def _products(deviation: Tensor) -> Tensor:
    red, green, blue = deviation.split(1, 1)
    return torch.cat([red * red, green * green, blue * blue, red * green, red * blue, green * blue], 1)


def _centres(length: int, cells: int, device: torch.device) -> Tensor:
    """Return the index of the pixel in the middle of each cell."""
    return (torch.arange(cells, device=device) * 2 + 1) * length // (2 * cells)
