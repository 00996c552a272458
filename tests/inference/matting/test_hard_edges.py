"""Hard edges are found by the mask, become one step, and move to the photo's edge only where the mask is unsure."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.matting import hard_edges
from cutout.inference.matting.mask import enlarge, to_levels
from cutout.inference.matting.refinement import clean_colours, refine
from tests.inference.matting.test_refinement import BLUE, RED, mixture, ramp, soft_mask, strands

SIDE = 400
INSIDE = 3  # pixels from the edge


def diagonal() -> Tensor:
    """Return the alpha of a subject with one straight, slanted edge, two pixels wide: float [H,W]."""
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    return ((columns + 0.3 * rows - 0.6 * SIDE) / 2 + 0.5).clamp(0, 1)


def printed(alpha: Tensor) -> Tensor:
    """Return a photo of a subject with stripes, every second one of nearly the background's colour, up to its edge."""
    stripes = (torch.arange(SIDE) // 6 % 2).float()[:, None, None]
    background = torch.tensor(BLUE).float()
    subject = torch.tensor(RED) * stripes + (0.95 * background + 10) * (1 - stripes)
    return mixture(alpha, subject.expand(SIDE, SIDE, 3), background, noise=4)


def weight_of(mask: Tensor) -> Tensor:
    return hard_edges.find(mask, torch.ones_like(mask)).fields[:, 1:]


def test_print_beside_the_edge_makes_no_holes_and_no_fringe(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = diagonal()
    photo, mask = printed(alpha), soft_mask(alpha)
    deep = -F.max_pool2d(-alpha[None, None], 2 * INSIDE + 1, 1, INSIDE)[0, 0] == 1
    refined = refine(photo, mask)[0]
    assert refined[deep].min() > 0.98
    before = (enlarge(mask, SIDE, SIDE) - alpha).abs().mean()
    assert (refined - alpha).abs().mean() < 0.5 * before

    monkeypatch.setattr(hard_edges, "SHARE", (2.0, 3.0))  # As if no edge was hard.
    ragged = refine(photo, mask)[0]
    assert ragged[deep].min() < 0.9
    assert (ragged - alpha).abs().mean() > 2 * (refined - alpha).abs().mean()


def test_a_straight_edge_is_hard_and_hair_is_not() -> None:
    step = soft_mask(diagonal())
    on_edge = (step > 0.4) & (step < 0.6)
    assert weight_of(step)[on_edge].min() == 1
    hair = soft_mask(strands(SIDE, SIDE))
    assert weight_of(hair).max() == 0


@pytest.mark.parametrize("width", [40, 80])
def test_an_edge_out_of_focus_is_not_hard(width: int) -> None:
    assert weight_of(F.interpolate(ramp(width)[None, None], size=(256, 256), mode="bilinear")).max() == 0


def test_lace_is_not_hard_although_each_hole_is() -> None:
    rows, columns = torch.meshgrid(torch.arange(256), torch.arange(256), indexing="ij")
    lace = ((rows % 12 < 6) & (columns % 12 < 6)).float()[None, None]
    assert weight_of(lace).max() == 0


def test_where_the_mask_is_unsure_its_edge_moves_to_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = diagonal()
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE), noise=4)
    mask, unsure = soft_mask(alpha), soft_mask(torch.roll(alpha, 2, dims=1))
    unsure = F.avg_pool2d(unsure, (1, 3), 1, (0, 1), count_include_pad=False)
    mask[..., 64:192, :] = unsure[..., 64:192, :]
    assert weight_of(mask)[..., 80:176, :].max() == 1
    there = slice(SIDE * 80 // 256, SIDE * 176 // 256)

    def error() -> float:
        return float((refine(photo, mask)[0] - alpha).abs()[there].mean())

    moved = error()
    monkeypatch.setattr(hard_edges, "UNCERTAIN", 0.0)
    assert moved < 0.75 * error()


@pytest.mark.parametrize("beside", [-2, 2])
def test_a_certain_edge_stays_where_the_mask_has_it(beside: int, monkeypatch: pytest.MonkeyPatch) -> None:
    alpha = diagonal()
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE), noise=4)
    moved = torch.roll(alpha, beside, dims=1)
    mask = soft_mask(moved)

    def error(of: Tensor) -> float:
        return float((of - moved).abs()[:, 10:-10].mean())

    assert error(refine(photo, mask)[0]) < 0.7 * error(enlarge(mask, SIDE, SIDE))
    for limit in ("INWARDS", "OUTWARDS"):
        monkeypatch.setattr(hard_edges, limit, 1.5)
    assert error(refine(photo, mask)[0]) > error(enlarge(mask, SIDE, SIDE))


def test_without_evidence_the_masks_edge_stays() -> None:
    alpha = diagonal()
    grey = torch.full((SIDE, SIDE, 3), 128, dtype=torch.uint8)
    mask = soft_mask(alpha)
    weight = hard_edges.find(mask, torch.zeros_like(mask)).fields[:, 1:]
    assert weight.max() == 0
    before = (enlarge(mask, SIDE, SIDE) - alpha).abs().mean()
    assert (refine(grey, mask)[0] - alpha).abs().mean() <= before


def test_a_photo_smaller_than_its_mask_keeps_the_masks_soft_edges() -> None:
    alpha = strands(SIDE, SIDE)
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE), noise=4)
    mask = F.interpolate(alpha[None, None], size=(1024, 1024), mode="bilinear")
    change = (refine(photo, mask)[0] - enlarge(mask, SIDE, SIDE)).abs()
    assert change.mean() < 1e-5  # At the photo's border a strand may look like an edge.


def test_a_sliver_of_background_within_the_step_takes_on_the_subjects_colour() -> None:
    alpha = diagonal()
    white = torch.full((3,), 250.0)
    photo = mixture(alpha, torch.tensor(RED), white, noise=4)
    mask = soft_mask(torch.roll(alpha, -2, dims=1))  # Two pixels outside of the photo's edge.
    cut, coverage = refine(photo, mask)
    sliver = (cut > 0.95) & (alpha < 0.05)
    sliver[:, :10] = sliver[:, -10:] = False
    assert sliver.any()
    off = [
        (clean_colours(photo, one)[sliver].float() - torch.tensor(RED)).abs().mean()
        for one in (to_levels(cut), coverage)
    ]
    assert off[1] < 0.4 * off[0]
