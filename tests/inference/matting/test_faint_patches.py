"""Faint patches of a mask go; what is sure, and what is connected to it, stays."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.errors import NetworkFailed
from cutout.inference.matting.faint_patches import cells_to_keep
from cutout.inference.matting.mask import SHOWN, SURE, find_subject
from cutout.models.catalog import find
from tests.pretend_gpu import Call, pretended_gpu

pytestmark = pytest.mark.slow

UNSTRETCHED, STRETCHED = find("rmbg-2.0"), find("isnet-general")
SIDE = 1024


def mask_of_disc() -> Tensor:
    """Return a mask of a disc with a soft edge, which is 0 elsewhere, [1,1,1024,1024]."""
    axis = torch.linspace(-1, 1, SIDE)
    distance = (axis[:, None] ** 2 + axis**2).sqrt()
    return ((0.32 - distance) / 0.04).clamp(0, 1)[None, None]


def found(mask: Tensor) -> Tensor:
    result = find_subject(mask, UNSTRETCHED)
    assert result is not None
    return result


@pytest.mark.parametrize("value", [0.02, 0.2, SURE - 0.001])
def test_a_faint_patch_becomes_exactly_nothing_and_nothing_else_changes(value: float) -> None:
    disc = mask_of_disc()
    mask = disc.clone()
    mask[..., 900:, :120] = value
    mask[..., 60:90, 500:900] = value
    assert torch.equal(found(mask), disc)


@pytest.mark.parametrize("value", [SURE, 1.0])
def test_a_part_that_is_sure_stays_with_its_soft_surroundings_small_as_it_is(value: float) -> None:
    mask = mask_of_disc()
    mask[..., 900:940, 100:140] = 0.1
    mask[..., 918:922, 118:122] = value
    assert torch.equal(found(mask), mask)


def test_smoke_that_hangs_on_the_subject_stays_however_long_it_is() -> None:
    mask = mask_of_disc()
    mask[..., 200:350, 500:524] = 0.1  # upwards from the disc
    mask[..., 200:224, 60:524] = 0.06  # to the left
    mask[..., 224:1000, 60:84] = torch.linspace(0.06, 0.03, 776)[:, None]  # and down
    assert torch.equal(found(mask), mask)


def test_what_hangs_on_the_subject_only_by_values_that_do_not_show_goes() -> None:
    disc = mask_of_disc()
    mask = disc.clone()
    mask[..., 500:524, 720:900] = SHOWN - 0.002
    mask[..., 480:544, 860:960] = 0.3
    assert found(mask)[..., 720:].max() == 0
    assert torch.equal(found(mask)[..., :680], disc[..., :680])


def test_faint_is_what_is_faint_after_the_mask_was_stretched() -> None:
    mask = 0.2 + 0.7 * mask_of_disc()
    mask[..., 900:, :120] = 0.54  # is 0.49 after it
    mask[..., :60, :60] = 0.56  # and 0.51
    result = find_subject(mask, STRETCHED)
    assert result is not None
    assert not result[..., 880:, :140].any()
    assert (result[..., :60, :60] > SURE).all()


@pytest.mark.parametrize("shape", [(40, 56), (200, 72), (256, 256), (257, 300), (530, 1024)])
def test_a_mask_of_any_shape(shape: tuple[int, int]) -> None:
    mask = torch.zeros(1, 1, *shape)
    mask[..., : shape[0] // 2, : shape[1] // 2] = 1
    subject = mask.clone()
    mask[..., -5:, -5:] = 0.4
    assert torch.equal(found(mask), subject)


@pytest.mark.parametrize("reach", [1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_the_flood_finds_what_growing_step_by_step_finds(seed: int, reach: int) -> None:
    cells = np.random.default_rng(seed).random((37, 53 + seed), dtype=np.float32)
    shown, sure = {1: 0.8, 2: 0.93}[reach], 0.99
    marked = torch.from_numpy(cells)[None, None]
    reached = (marked >= sure).float()
    for _ in range(cells.size):
        reached = F.max_pool2d(reached, 2 * reach + 1, 1, reach) * (marked >= shown)
    assert (marked >= sure).sum() < reached.sum() < (marked >= shown).sum()
    expected = F.max_pool2d(reached, 2 * reach + 1, 1, reach) > 0
    assert np.array_equal(cells_to_keep(cells, shown, sure, reach), expected[0, 0])


def test_a_gpu_removes_the_same_and_its_host_waits_once() -> None:
    mask = mask_of_disc()
    mask[..., 900:, :120] = 0.3
    calls: list[Call] = []
    with pretended_gpu(note=calls.append):
        there = mask.half().to("cuda")
        calls.clear()
        on_gpu = find_subject(there, UNSTRETCHED)
        assert on_gpu is not None
        waits = [call.wait for call in calls if call.wait]
        result = on_gpu.cpu()
    assert waits == ["download"]
    assert torch.equal(result, found(mask.half()))
    assert not result[..., 850:, :150].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_one_value_that_is_no_number_is_an_error(value: float) -> None:
    mask = mask_of_disc()
    mask[..., 3, 1021] = value
    with pytest.raises(NetworkFailed):
        find_subject(mask, STRETCHED)
