"""Measures of an alpha's shape: the length of its contour, islands, holes, and connectivity."""

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from skimage.measure import find_contours

from benchmarks.quality.layers import Floats

REACH = 8 / 1024  # half the width of the band around the true edge, as a share of the longer side
FRINGE = (0.1, 0.9)
THRESHOLDS = np.linspace(0.1, 1, 10)  # of connectivity, as published
IGNORED = 0.15  # distances up to this do not count in connectivity, as published


@dataclass(frozen=True)
class Contour:
    """`roughness` and `fringe` are ratios of lengths; `islands` and `holes` numbers per 1,000 pixels of true contour."""

    roughness: float
    fringe: float
    islands: float
    holes: float


def compare(found: Floats, true: Floats) -> Contour:
    """Compare the contours of two alphas, [H,W] of 0…1, in a band around the true edge.

    The lengths are those of marching squares (Lorensen and Cline 1987), which follow the edge between pixels: at 50 %
    for `roughness`, at 10 and 90 % for `fringe`, which shows print and noise in alpha beside a contour that is right.
    They are divided by the length of the true contour at the same levels. An island is a connected part of the
    foreground without counterpart in the truth: each true part is the counterpart of one part at most, so that pieces
    of a broken bar are islands too. A hole is the same for the background.
    """
    band = near_edge(true)
    true_length = length(true, band)
    if true_length == 0:
        return Contour(1.0, 1.0, 0.0, 0.0)
    found_opaque, true_opaque = found > 0.5, true > 0.5
    scale = 1000 / true_length
    return Contour(
        roughness=length(found, band) / true_length,
        fringe=_lengths(found, band) / max(_lengths(true, band), 1e-9),
        islands=scale * _surplus(found_opaque, true_opaque, band, 8),
        holes=scale * _surplus(~found_opaque, ~true_opaque, band, 4),
    )


def near_edge(alpha: Floats) -> npt.NDArray[np.bool_]:
    """Return the pixels within REACH of where an alpha crosses 50 % or is mixed."""
    opaque = (alpha > 0.5).astype(np.uint8)
    cross = np.ones((3, 3), np.uint8)
    edge = (cv2.dilate(opaque, cross) != cv2.erode(opaque, cross)) | ((alpha > 0.02) & (alpha < 0.98))
    side = 2 * max(3, round(max(alpha.shape) * REACH)) + 1
    return cv2.dilate(edge.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def length(alpha: Floats, within: npt.NDArray[np.bool_] | None = None, level: float = 0.5) -> float:
    """Return the length of the contour at a level, in pixels."""
    lines = find_contours(alpha, level, mask=within)
    return float(sum(np.hypot(*np.diff(line, axis=0).T).sum() for line in lines))


def connectivity(found: Floats, true: Floats) -> float:
    """Return the connectivity error, in pixels: Rhemann et al., "A Perceptually Motivated Online Benchmark" (2009).

    Each pixel has the highest threshold at which it is connected with the largest part that is opaque in both alphas;
    its connectivity falls with the distance of its alpha from there. The sum of the differences is returned.
    """
    highest = np.zeros(true.shape, np.float32)
    connected = np.ones(true.shape, np.bool_)
    for threshold in THRESHOLDS.tolist():
        both = ((found >= threshold) & (true >= threshold)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(both, connectivity=4)
        if count == 1:
            break
        connected &= labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])
        highest[connected] = threshold
    errors = []
    for alpha in (found, true):
        distance = alpha - highest
        errors.append(1 - distance * (distance >= IGNORED))
    return float(np.abs(errors[0] - errors[1]).sum(dtype=np.float64))


def _lengths(alpha: Floats, within: npt.NDArray[np.bool_]) -> float:
    return sum(length(alpha, within, level) for level in FRINGE)


def _surplus(
    found: npt.NDArray[np.bool_], true: npt.NDArray[np.bool_], band: npt.NDArray[np.bool_], neighbours: int
) -> int:
    """Count the connected parts of `found` that reach into the band and have no counterpart in `true`."""
    _, parts = cv2.connectedComponents(found.astype(np.uint8), connectivity=neighbours)
    _, true_parts = cv2.connectedComponents(true.astype(np.uint8), connectivity=neighbours)
    here = np.unique(parts[band & found])
    # The counterpart of a part is the true part that it shares the most pixels with.
    shared = (parts > 0) & (true_parts > 0)
    pairs, sizes = np.unique(
        parts[shared].astype(np.int64) << 32 | true_parts[shared].astype(np.int64), return_counts=True
    )
    order = np.argsort(-sizes, kind="stable")
    counterparts: dict[int, int] = {}
    for pair in pairs[order].tolist():
        counterparts.setdefault(pair >> 32, pair & 0xFFFFFFFF)
    taken: set[int] = set()
    surplus = 0
    for part in here.tolist():
        counterpart = counterparts.get(part)
        surplus += counterpart is None or counterpart in taken
        if counterpart is not None:
            taken.add(counterpart)
    return surplus
