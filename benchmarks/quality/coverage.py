"""Exact coverage of pixels by polygons: the alpha of a shape with hard edges, without supersampling.

Method: the signed areas of Levien's font-rs (2016) and of FreeType's smooth rasteriser. Every edge of a polygon is cut
where it crosses the border of a pixel; each piece adds the area on its right within its pixel, and its height to all
pixels on its right. The sum along each row is the coverage. It is exact up to rounding for each polygon, and where the
edges of two polygons do not meet in one pixel, for their union.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks.quality.layers import Floats

# The corners of a closed polygon, [N,2] as x and y in pixels; pixel 0 covers 0…1.
Points = npt.NDArray[np.float64]


def coverage(shapes: Sequence[Points], height: int, width: int, holes: Sequence[Points] = ()) -> Floats:
    """Return the share of each pixel that the union of `shapes` without `holes` covers, float32 [height,width]."""
    areas = np.zeros(height * (width + 2))
    for sign, polygons in ((1.0, shapes), (-1.0, holes)):
        for polygon in polygons:
            start, end = polygon, np.roll(polygon, -1, 0)
            turn = np.sign((start[:, 0] * end[:, 1] - end[:, 0] * start[:, 1]).sum())
            places, amounts = _areas(start, end, height, width)
            np.add.at(areas, places, sign * turn * amounts)
    rows = areas.reshape(height, width + 2)
    # Rounded, so that pixels beside a shape are exactly 0 or 1.
    return np.clip(np.cumsum(rows, 1, out=rows)[:, :width].round(9), 0, 1).astype(np.float32)


def _areas(
    start: Points, end: Points, height: int, width: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return where, in rows of width + 2, edges change the running sum, and by how much."""
    edges = np.arange(len(start))
    cuts = [(edges, np.zeros(len(edges))), (edges, np.ones(len(edges)))]
    cuts += [_crossings(start[:, axis], end[:, axis]) for axis in (0, 1)]
    edge, share = (np.concatenate(parts) for parts in zip(*cuts, strict=True))
    order = np.lexsort((share, edge))
    edge, share = edge[order], share[order]
    points = start[edge] + share[:, None] * (end - start)[edge]
    same = edge[1:] == edge[:-1]
    middle, rise = ((points[1:] + points[:-1]) / 2)[same], (points[1:, 1] - points[:-1, 1])[same]
    row = np.floor(middle[:, 1]).astype(np.int64)
    inside = (row >= 0) & (row < height) & (rise != 0)
    row, rise, x = row[inside], rise[inside], np.clip(middle[inside, 0], 0, width)
    column = np.floor(x).astype(np.int64)
    place, part = row * (width + 2) + column, x - column
    # The sign makes a polygon positive whose corners follow each other clockwise on the screen.
    return np.concatenate([place, place + 1]), np.concatenate([-rise * (1 - part), -rise * part])


def _crossings(
    start: npt.NDArray[np.float64], end: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return each edge's number and the shares of its length at which the coordinate is an integer."""
    first = np.floor(np.minimum(start, end)).astype(np.int64) + 1
    count = np.maximum(np.ceil(np.maximum(start, end)).astype(np.int64) - first, 0)
    edge = np.repeat(np.arange(len(start)), count)
    integer = first[edge] + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return edge, (integer - start[edge]) / (end - start)[edge]
