"""Outlines of hard subjects as polygons, [N,2] of x and y in pixels."""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from benchmarks.quality.coverage import Points
from benchmarks.quality.layers import Floats

STEP = 0.5  # pixels between the corners of a dense outline
FLATNESS = 0.001  # pixels that the sides of a polygon may deviate from the arc that they replace

Profile = Callable[[Floats], Floats]


def profile(*points: tuple[float, float]) -> Profile:
    """Return a smooth function through points (share of the height from the top, half the width)."""
    places, values = np.array(points).T

    def half(share: Floats) -> Floats:
        index = np.clip(np.searchsorted(places, share, side="right") - 1, 0, len(places) - 2)
        part = np.clip((share - places[index]) / (places[index + 1] - places[index]), 0, 1)
        return values[index] + (values[index + 1] - values[index]) * part * part * (3 - 2 * part)

    return half


def revolved(half: Profile, top: float, bottom: float, sag: float) -> Points:
    """Return the outline of a solid of revolution around x = 0, whose foot bulges down by `sag`."""
    share = np.linspace(0, 1, max(8, math.ceil((bottom - top) / STEP)))
    right = np.stack([half(share), top + share * (bottom - top)], 1)
    angle = np.linspace(0, math.pi, _corners(right[-1, 0], math.pi))[1:-1]
    foot = np.stack([right[-1, 0] * np.cos(angle), bottom + sag * np.sin(angle)], 1)
    return np.concatenate([right, foot, right[::-1] * (-1, 1)])


def ellipse(centre: npt.ArrayLike, width: float, height: float) -> Points:
    """Return an ellipse of half axes `width` and `height`."""
    angle = np.linspace(0, 2 * math.pi, _corners(max(width, height), 2 * math.pi), endpoint=False)
    return np.asarray(centre) + np.stack([width * np.cos(angle), height * np.sin(angle)], 1)


def rounded(centre: npt.ArrayLike, width: float, height: float, radius: float, angle: float = 0) -> Points:
    """Return a rectangle with rounded corners, turned by `angle` radians."""
    turns = np.linspace(0, math.pi / 2, _corners(radius, math.pi / 2))
    arc = radius * np.stack([np.cos(turns), np.sin(turns)], 1)
    x, y = width / 2 - radius, height / 2 - radius
    corners = []
    for quarter, corner in enumerate(((x, y), (-x, y), (-x, -y), (x, -y))):
        corners.append(rotated(arc, quarter * math.pi / 2) + corner)
    return np.asarray(centre) + rotated(dense(np.concatenate(corners)), angle)


def bar(start: npt.ArrayLike, end: npt.ArrayLike, width: float) -> Points:
    """Return a straight bar with square ends."""
    first, last = np.asarray(start, np.float64), np.asarray(end, np.float64)
    along = (last - first) / max(1e-9, float(np.hypot(*(last - first))))
    side = np.array([-along[1], along[0]]) * width / 2
    return np.stack([first + side, last + side, last - side, first - side])


def scalloped(outline: Points, period: float, depth: float) -> Points:
    """Return an outline with small bulges outwards, about `period` pixels long and `depth` high."""
    outline = dense(outline)
    steps = np.roll(outline, -1, 0) - outline
    length = np.hypot(*steps.T)
    place = np.concatenate([[0], np.cumsum(length)[:-1]])
    bulges = max(1, round(length.sum() / period))
    height = depth * np.abs(np.sin(math.pi * bulges * place / length.sum()))
    along = np.roll(steps, 1, 0) + steps
    normal = np.stack([along[:, 1], -along[:, 0]], 1) / np.maximum(np.hypot(*along.T), 1e-9)[:, None]
    turn = np.sign(
        (outline[:, 0] * np.roll(outline[:, 1], -1) - np.roll(outline[:, 0], -1) * outline[:, 1]).sum()
    )
    return outline + turn * height[:, None] * normal


def rotated(points: Points, angle: float) -> Points:
    """Rotate points around the origin."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return points @ np.array([[cosine, sine], [-sine, cosine]])


def dense(outline: Points) -> Points:
    """Return the same polygon with corners at most STEP apart."""
    ends = np.roll(outline, -1, 0)
    counts = np.maximum(1, np.ceil(np.hypot(*(ends - outline).T) / STEP).astype(int))
    share = np.concatenate([np.arange(count) / count for count in counts])[:, None]
    edge = np.repeat(np.arange(len(outline)), counts)
    return outline[edge] + share * (ends - outline)[edge]


def _corners(radius: float, angle: float) -> int:
    """Return how many corners an arc of `angle` radians needs."""
    return max(8, math.ceil(angle / math.sqrt(8 * FLATNESS / max(radius, 1))))
