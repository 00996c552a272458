"""The measures of an alpha's shape, on shapes whose values are known."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="the extra `quality` is not installed")
pytest.importorskip("skimage", reason="the extra `quality` is not installed")

from benchmarks.quality import contours
from benchmarks.quality.coverage import coverage
from benchmarks.quality.layers import Floats

SIZE = 200
RADIUS = 60.3


def disc(radius: float = RADIUS, teeth: float = 0.0) -> Floats:
    """Return the alpha of a disc, with 90 teeth of ± `teeth` pixels around it."""
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    around = radius + teeth * np.sin(90 * angle)
    return coverage([np.stack([100 + around * np.cos(angle), 100.4 + around * np.sin(angle)], 1)], SIZE, SIZE)


def test_the_contour_of_a_disc_is_as_long_as_its_circle() -> None:
    assert contours.length(disc()) == pytest.approx(2 * np.pi * RADIUS, rel=0.003)


def test_the_truth_itself_is_neither_rough_nor_broken() -> None:
    assert contours.compare(disc(), disc()) == contours.Contour(1.0, 1.0, 0.0, 0.0)
    soft = np.clip((disc(58) + disc() + disc(62)) / 3, 0, 1)
    found = contours.compare(soft, disc())
    assert found.roughness == pytest.approx(1, abs=0.01)
    assert (found.islands, found.holes) == (0, 0)


def test_teeth_make_a_contour_rough() -> None:
    assert contours.compare(disc(teeth=1.0), disc()).roughness > 1.05
    assert contours.compare(disc(teeth=0.2), disc()).roughness < 1.05


def test_print_in_alpha_shows_in_the_fringe_alone() -> None:
    alpha = disc()
    inside = disc(RADIUS - 2) - disc(RADIUS - 8)
    stripes = np.arange(SIZE)[:, None] % 4 < 2
    found = contours.compare(alpha - 0.3 * inside * stripes, alpha)
    assert found.fringe > 1.3
    assert found.roughness == pytest.approx(1, abs=0.01)


def test_islands_and_holes_are_counted_near_the_edge() -> None:
    true, found = disc(), disc()
    found[94:97, 100 + 55 : 100 + 58] = 0
    found[101:104, 100 + 55 : 100 + 58] = 0.3
    found[100, 100 + 63] = 1
    found[98:101, 99:102] = 0  # a hole far from the edge is the network's, not the edge's
    result = contours.compare(found, true)
    per_thousand = 1000 / contours.length(true)
    assert result.holes == pytest.approx(2 * per_thousand)
    assert result.islands == pytest.approx(per_thousand)


def test_pieces_of_a_broken_bar_are_islands_and_gaps_of_the_truth_are_no_holes() -> None:
    true = np.zeros((SIZE, SIZE), np.float32)
    true[50:54, 20:180] = 1
    true[80:120, 80:120] = 1
    true[95:105, 95:105] = 0
    found = true.copy()
    found[50:54, 60:64] = found[50:54, 120:124] = 0
    result = contours.compare(found, true)
    assert result.islands * contours.length(true) / 1000 == pytest.approx(2)
    assert result.holes == 0


def test_connectivity_counts_what_is_cut_off() -> None:
    true = np.ones((10, 10), np.float32)
    found = true.copy()
    found[:, 5], found[:, 6:] = 0, 0.5
    assert contours.connectivity(true, true) == 0
    # Connected: no error. The gap: 1 each. Cut off at half opacity: 0.5 each.
    assert contours.connectivity(found, true) == pytest.approx(10 + 40 * 0.5)
    # Differences below 0.15 do not count.
    assert contours.connectivity(np.full_like(true, 0.9), true) == pytest.approx(0, abs=1e-6)


def test_an_empty_truth_has_no_contour() -> None:
    empty = np.zeros((20, 20), np.float32)
    assert contours.compare(empty, empty) == contours.Contour(1.0, 1.0, 0.0, 0.0)
