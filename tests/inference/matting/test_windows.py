"""Windows agree with torch's pooling, and tiles with the whole grid."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.matting import refinement, windows
from cutout.inference.matting.windows import in_tiles, window_max, window_mean

SHAPES = [(1, 1, 1, 1), (1, 3, 2, 9), (1, 2, 33, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("radius", [1, 2, 4])
def test_windows_are_those_of_pooling(shape: tuple[int, ...], radius: int) -> None:
    values = torch.rand(shape)
    side = 2 * radius + 1
    average = F.avg_pool2d(values, side, 1, radius, count_include_pad=False)
    assert (window_mean(values, radius) - average).abs().max() < 1e-6
    assert torch.equal(window_max(values, radius), F.max_pool2d(values, side, 1, radius))


@pytest.mark.parametrize("size", [(61, 47), (64, 128), (9, 200)])
def test_tiles_are_those_of_the_whole_grid(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Refinement's own fields, so that FIELD_REACH is proven too."""
    monkeypatch.setattr(windows, "TILE", 16)
    small, deviation = torch.rand(1, 3, *size), torch.rand(1, 3, *size)
    certain = (torch.rand(1, 1, *size) > 0.5).float()
    coarse = F.avg_pool2d(torch.rand(1, 1, *size), 5, 1, 2, count_include_pad=False)
    calls = 0

    def compute(*fields: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return refinement._edge_fields(*fields, overall=torch.full((1, 6, 1, 1), 0.01), strength=1)

    whole = compute(small, coarse, deviation, certain)
    marked = torch.zeros(1, 1, *size)
    marked[..., 5:9, size[1] // 2 :] = 1
    found = in_tiles(compute, marked, refinement.FIELD_REACH, small, coarse, deviation, certain)
    near = (F.max_pool2d(marked, 3, 1, 1) > 0).expand_as(whole)
    assert (found - whole)[near].abs().max() < 1e-6
    assert calls > 2
    if size[1] >= 128:
        assert found[..., :32].count_nonzero() == 0


def test_a_grid_without_marked_cells_is_computed_too() -> None:
    """So that the result has its number of fields."""
    field = torch.rand(1, 1, 4, 4)
    assert in_tiles(lambda one: torch.cat([one, one], 1), torch.zeros(1, 1, 4, 4), 2, field).shape == (
        1,
        2,
        4,
        4,
    )
