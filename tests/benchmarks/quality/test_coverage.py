"""The alpha of drawn polygons is the share of each pixel that they cover."""

import numpy as np
import pytest

from benchmarks.quality import outlines
from benchmarks.quality.coverage import Points, coverage
from benchmarks.quality.layers import Floats

SIZE = 40
LEVEL = 1 / 255


@pytest.mark.parametrize("degrees", [0, 0.5, 30, 45, 77, 90, 135, 200, 289.5])
@pytest.mark.parametrize("shift", [0.0, 0.37])
def test_a_half_plane_has_its_analytic_coverage(degrees: float, shift: float) -> None:
    # A rectangle so large that only one of its sides crosses the picture.
    edge = outlines.rotated(
        np.array([(0, -200), (0, 200), (-400, 200), (-400, -200)], float), np.radians(degrees)
    )
    middle = np.array([SIZE / 2 + shift, SIZE / 2 - shift])
    normal = np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])
    expected = _half_plane(normal, float(normal @ middle))
    assert np.abs(coverage([middle + edge], SIZE, SIZE) - expected).max() < LEVEL


@pytest.mark.parametrize("radius", [0.3, 4.0, 15.3, 60.0])
def test_a_disc_has_its_analytic_coverage(radius: float) -> None:
    centre = (SIZE / 2 + 0.2, SIZE / 2 - 0.4)
    found = coverage([outlines.ellipse(centre, radius, radius)], SIZE, SIZE)
    assert np.abs(found - _disc(centre, radius)).max() < LEVEL


def test_overlapping_shapes_are_united_and_holes_are_cut() -> None:
    square, other = _square(5, 20), _square(10, 30)
    united = coverage([square, other[::-1]], SIZE, SIZE)
    assert set(np.unique(united)) == {0.0, 1.0}
    assert united.sum() == 15**2 + 20**2 - 10**2
    assert coverage([square], SIZE, SIZE, [_square(8, 12)]).sum() == pytest.approx(15**2 - 4**2)


def test_what_lies_outside_the_picture_is_cut_off() -> None:
    assert coverage([_square(-10, 12.5)], SIZE, SIZE).sum() == pytest.approx(12.5**2)
    assert coverage([_square(-10, 100)], SIZE, SIZE).min() == 1
    assert coverage([_square(50, 60)], SIZE, SIZE).max() == 0


def test_outlines_have_their_areas() -> None:
    assert _area(outlines.bar((5, 5), (35, 30), 3.0)) == pytest.approx(3 * np.hypot(30, 25), abs=0.01)
    rounded = outlines.rounded((20, 20), 24, 16, 4, 0.5)
    assert _area(rounded) == pytest.approx(24 * 16 - (4 - np.pi) * 4**2, abs=0.05)
    cylinder = outlines.revolved(outlines.profile((0, 8), (1, 8)), -10, 10, 0) + 20
    assert _area(cylinder) == pytest.approx(16 * 20, abs=0.01)
    circle = outlines.ellipse((20, 20), 12, 12)
    bulges = outlines.scalloped(circle, 4, 1)
    assert _area(bulges) == pytest.approx(np.pi * 12**2 + 2 / np.pi * 2 * np.pi * 12, rel=0.01)


def _area(shape: Points) -> float:
    return float(coverage([shape], SIZE, SIZE).sum(dtype=np.float64))


def _square(start: float, end: float) -> Points:
    return np.array([(start, start), (end, start), (end, end), (start, end)], float)


def _half_plane(normal: Points, limit: float) -> Floats:
    """Return the share of each pixel where normal · (x, y) ≤ limit."""
    y, x = np.mgrid[:SIZE, :SIZE]
    # By symmetry, both components can be positive; the distance is that from the pixel's first corner.
    wide, high = np.maximum(np.abs(normal), 1e-6)
    near = limit - x * normal[0] - y * normal[1] - min(normal[0], 0) - min(normal[1], 0)
    terms = [np.maximum(near - cut, 0) ** 2 for cut in (0, wide, high, wide + high)]
    share: Floats = (terms[0] - terms[1] - terms[2] + terms[3]) / (2 * wide * high)
    return share


def _disc(centre: tuple[float, float], radius: float) -> Floats:
    """Return the share of each pixel within the disc: exact along y, and the mean of 400 places along x."""
    x = (np.arange(SIZE * 400) + 0.5) / 400 - centre[0]
    half = np.sqrt(np.maximum(radius**2 - x**2, 0))
    row = np.arange(SIZE)[:, None]
    low, high = np.clip(centre[1] - half, row, row + 1), np.clip(centre[1] + half, row, row + 1)
    share: Floats = (high - low).reshape(SIZE, SIZE, 400).mean(2)
    return share
