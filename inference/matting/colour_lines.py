"""Colour lines: alpha as a linear function of colour around each cell of a small grid, and how far that can be trusted.

Within a few pixels, the subject has about one colour and so has the background. So alpha is locally a linear function of
colour: Levin, Lischinski and Weiss, "A Closed-Form Solution to Natural Image Matting" (2008). It is fitted per window, as
in He, Sun and Tang, "Guided Image Filtering" (2010).
"""

import math
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

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
    total: Tensor | int = 0
    explained = []
    both = torch.cat([colour, alpha], 1)
    for radius in WINDOWS:
        # Wide windows need no fine grid, and a quarter of the cells take a quarter of the time.
        step = 2 if radius > COARSER_FROM else 1
        if step == 1:
            fit = _fit_window(both, radius)
        else:
            fit = _fit_window(F.avg_pool2d(both, step, ceil_mode=True), radius // step)
            fit = F.interpolate(fit, scale_factor=step, mode="bilinear")[
                ..., : alpha.shape[2], : alpha.shape[3]
            ]
        line, share = fit.split((4, 1), 1)
        weight = share**4
        total = total + torch.cat([line * weight, weight], 1)
        explained.append(share)
    assert isinstance(total, Tensor)
    lines, weights = total.split((4, 1), 1)
    return lines / weights.clamp(min=1e-8), torch.cat(explained, 1).amax(1, keepdim=True)


def _fit_window(values: Tensor, radius: int) -> Tensor:
    """Fit one window size to colour and alpha, [1,4,h,w]: the line, its constant, and the share explained, [1,5,h,w]."""
    tables = _tables(values.device)
    both = torch.cat([values, _multiplied(values, tables.pairs)], 1)
    means, products = window_mean(both, radius).split((4, 10), 1)
    covariances = products - _multiplied(means, tables.pairs)
    line = _solved((covariances + tables.flatness).index_select(1, tables.system).unflatten(1, (3, 4))[0])
    _, with_alpha, of_alpha = covariances.split((6, 3, 1), 1)
    explained = (line * with_alpha).sum(1, keepdim=True) / (of_alpha.clamp(min=0) + 1e-5)
    colour, alpha = means.split((3, 1), 1)
    constant = alpha - (line * colour).sum(1, keepdim=True)
    fit = window_mean(torch.cat([line, constant, explained], 1), 1)
    fit[:, 4:].clamp_(0, 1)
    return fit


def _solved(rows: Tensor) -> Tensor:
    """Solve symmetric systems of three equations, [3,4,h,w] with the right side last, by elimination: [1,3,h,w].

    Cramer's rule would lose the determinant of nearly grey windows to rounding, and a general solver for a million systems
    takes longer than everything else together.
    """
    first, others = rows.split((1, 2))
    pivot, across = first.split((1, 3), 1)
    factors, others = others.split((1, 3), 1)
    second, third = (others - factors / pivot * across).split(1)
    pivot_2, across_2 = second.split((1, 2), 1)
    factor, third = third.split((1, 2), 1)
    pivot_3, right_3 = (third - factor / pivot_2 * across_2).split(1, 1)
    blue = right_3 / pivot_3
    share, right_2 = across_2.split(1, 1)
    found = torch.cat([(right_2 - share * blue) / pivot_2, blue], 1)
    shares, right = across.split((2, 1), 1)
    return torch.cat([(right - (shares * found).sum(1, keepdim=True)) / pivot, found], 1)


@dataclass(frozen=True)
class _Tables:
    """Which of red, green, blue and alpha, 0…3, are multiplied with which, and what the products are for.

    `flatness`, [10,1,1], is added to their covariances, and `system` says which of these make up the system of equations,
    row by row. Colours' own products are the first six; `times`, [6,1,1], is how often each is in the square of a sum.
    """

    pairs: tuple[Tensor, Tensor] = field(repr=False)
    flatness: Tensor = field(repr=False)
    system: Tensor = field(repr=False)
    colour_pairs: tuple[Tensor, Tensor] = field(repr=False)
    times: Tensor = field(repr=False)


@cache
def _tables(device: torch.device) -> _Tables:
    pairs = [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3), (3, 3)]
    first, second = torch.tensor([*zip(*pairs, strict=True)], device=device)
    flatness = [FLATNESS if one == other < 3 else 0.0 for one, other in pairs]
    times = [1.0 if one == other else 2.0 for one, other in pairs[:6]]
    return _Tables(
        (first, second),
        torch.tensor(flatness, device=device)[:, None, None],
        torch.tensor([0, 1, 2, 6, 1, 3, 4, 7, 2, 4, 5, 8], device=device),
        (first[:6], second[:6]),
        torch.tensor(times, device=device)[:, None, None],
    )


def _multiplied(values: Tensor, pairs: tuple[Tensor, Tensor]) -> Tensor:
    """Multiply channels of [1,C,h,w] pair by pair."""
    return values.index_select(1, pairs[0]) * values.index_select(1, pairs[1])


def deviations(rgb: Tensor, small: Tensor) -> Tensor:
    """Return how one pixel of each cell of a photo, uint8 [H,W,3], differs from its cell's colour, [1,3,h,w].

    `small` is the photo at the grid's size.
    """
    rows, columns = small.shape[-2:]
    row = _centres(rgb.shape[0], rows, rgb.device)
    column = _centres(rgb.shape[1], columns, rgb.device)
    return rgb.index_select(0, row).index_select(1, column).permute(2, 0, 1)[None] / 255 - small


def texture(deviation: Tensor, certain: Tensor, overall: Tensor) -> Tensor:
    """Estimate the photo's variation within a cell where the mask is certain: texture, noise, JPEG artefacts.

    `certain` is 0/1, [1,1,h,w]. Returns the covariance of `deviation`, [1,6,h,w]: rr, rg, rb, gg, gb, bb. Far from any
    certain cell, a fifth of `overall`, that of the whole photo, is used.
    """
    products = _multiplied(deviation, _tables(deviation.device).colour_pairs)
    covariance, share = window_mean(torch.cat([products * certain, certain], 1), 6).split((6, 1), 1)
    found: Tensor = (covariance + 0.004 * overall) / (share + 0.02)
    return found


def overall_texture(deviation: Tensor, certain: Tensor) -> Tensor:
    """Return the mean covariance of the certain cells of the whole photo, [1,6,1,1]; every fourth row and column counts."""
    certain = certain[..., ::4, ::4]
    products = _multiplied(deviation[..., ::4, ::4], _tables(deviation.device).colour_pairs)
    return (products * certain).mean((2, 3), keepdim=True) / certain.mean().clamp(min=1e-6)


def energy_along(lines: Tensor, covariance: Tensor) -> Tensor:
    """Return the variance that `covariance` causes along the colour lines, [1,1,h,w]."""
    tables = _tables(lines.device)
    products = _multiplied(lines, tables.colour_pairs) * covariance * tables.times
    return products.sum(1, keepdim=True).clamp_(min=0)


def blurred(values: Tensor, sigma: float) -> Tensor:
    """Blur [1,C,h,w] with a Gaussian of `sigma` pixels."""
    weights = _gaussian(sigma)
    radius = len(weights) // 2
    padded = F.pad(values, (radius,) * 4, mode="replicate")
    if values.device.type != "cpu":
        down, across = _kernels(values.device, weights)
        return F.conv2d(F.conv2d(padded.transpose(0, 1), down), across).transpose(0, 1)
    # On a CPU, adding shifted copies takes a third of the time of a convolution.
    for axis in (2, 3):
        length = values.shape[axis]
        blurred = padded.narrow(axis, 0, length) * weights[0]
        for start, weight in enumerate(weights[1:], 1):
            blurred.add_(padded.narrow(axis, start, length), alpha=weight)
        padded = blurred
    return padded


@cache
def _gaussian(sigma: float) -> tuple[float, ...]:
    radius = round(3 * sigma)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in range(-radius, radius + 1)]
    return tuple(weight / sum(weights) for weight in weights)


@cache
def _kernels(device: torch.device, weights: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    line = torch.tensor(weights, device=device)
    return line.view(1, 1, -1, 1), line.view(1, 1, 1, -1)


def _centres(length: int, cells: int, device: torch.device) -> Tensor:
    """Return the index of the pixel in the middle of each cell."""
    return (torch.arange(cells, device=device) * (2 * length) + length) // (2 * cells)
