"""Connected parts of masks."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.hints import Aim, Spot
from cutout.inference.matting import cells, flood, parts
from cutout.inference.matting.cells import Grid
from cutout.inference.matting.flood import Ground
from cutout.inference.matting.parts import Chosen

LEFT, RIGHT = (0.25, 0.5), (0.75, 0.5)


def choose(mask: torch.Tensor, aim: Aim, height: int, width: int) -> Chosen | None:
    """Choose in a grey picture of this size."""
    return parts.choose(mask, aim, torch.full((height, width, 3), 90, dtype=torch.uint8))


def flooded(marked: npt.NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    """Find connected regions cell by cell."""
    left, regions = set(zip(*map(np.ndarray.tolist, np.nonzero(marked)), strict=True)), []
    while left:
        region, todo = set(), [left.pop()]
        while todo:
            row, column = todo.pop()
            region.add((row, column))
            for cell in [(row + down, column + across) for down in (-1, 0, 1) for across in (-1, 0, 1)]:
                if cell in left:
                    left.remove(cell)
                    todo.append(cell)
        regions.append(region)
    return regions


def spiral(side: int) -> npt.NDArray[np.bool_]:
    """Return one line that winds from the corner to the middle, the longest way that a region can have."""
    marked = np.zeros((side, side), np.bool_)
    for ring in range(0, side // 2, 2):
        marked[ring, max(0, ring - 2) : side - ring] = True
        marked[ring : side - ring, side - 1 - ring] = True
        marked[side - 1 - ring, ring : side - ring] = True
        marked[ring + 2 : side - ring, ring] = True
    return marked


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.4, 0.9, 1.0])
def test_regions_are_those_that_a_flood_finds(share: float) -> None:
    marked = np.random.default_rng(1).random((40, 61)) < share
    labels = cells.labelled(marked)
    np.testing.assert_array_equal(labels > 0, marked)
    regions = flooded(marked)
    found = [{int(labels[cell]) for cell in region} for region in regions]
    assert all(len(numbers) == 1 for numbers in found)
    assert len(set.union(set(), *found)) == len(regions)


def test_a_long_way_is_one_region() -> None:
    marked = spiral(64)
    assert len(flooded(marked)) == len(np.unique(cells.labelled(marked))) - 1 == 1


@pytest.mark.parametrize("size", [(200, 256), (512, 512), (700, 300), (1030, 1030)])
def test_a_hard_part_goes_whole_and_the_other_stays_bit_for_bit(size: tuple[int, int]) -> None:
    height, width = size
    mask = torch.zeros(1, 1, height, width)
    mask[..., height // 5 : height // 3 * 2, width // 7 : width // 3] = 0.9
    mask[..., height // 4 : height // 2 + 5, width // 3 * 2 : width // 10 * 9] = 1
    other = mask.clone()
    other[..., : width // 2] = 0
    chosen = choose(mask, Aim(drop=(LEFT,)), 300, 400)
    assert chosen is not None
    assert chosen.weights is not None
    assert torch.equal(chosen.mask, other)
    assert chosen.weights.shape == mask.shape
    again = choose(mask, Aim(keep=(RIGHT,)), 300, 400)
    assert again is not None
    assert torch.equal(again.mask, other)


def test_a_faint_patch_that_touches_no_subject_is_a_part_but_no_subject() -> None:
    """`find_subject` leaves such patches only near a subject."""
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10:50, 10:30] = 1
    mask[..., 10:50, 32:50] = 0.3
    subject, patch = (0.3, 0.5), (0.6, 0.5)
    dropped = choose(mask, Aim(drop=(patch,)), 64, 64)
    assert dropped is not None
    assert torch.equal(dropped.mask, mask.where(mask != 0.3, 0))
    assert choose(mask, Aim(drop=(subject,)), 64, 64) is None
    kept = choose(mask, Aim(keep=(patch,)), 64, 64)
    assert kept is not None
    assert torch.equal(kept.mask, mask.where(mask != 1, 0)), "what is pointed at stays"


def test_a_soft_edge_belongs_to_its_own_part() -> None:
    """Two soft edges that meet: each part keeps its half, and the mask is whole with both."""
    across = torch.linspace(0, 1, 256)
    left, right = (torch.sigmoid((0.14 - (across - middle).abs()) * 60) for middle in (0.3, 0.7))
    both = (left + right).clamp(max=1).expand(1, 1, 256, 256)
    first, second = (choose(both, Aim(keep=((middle, 0.5),)), 256, 256) for middle in (0.3, 0.7))
    assert first is not None
    assert second is not None
    assert torch.equal(first.mask + second.mask, both)
    assert torch.equal(first.mask[..., :126], both[..., :126])
    assert not first.mask[..., 130:].any()


def test_nothing_changes_where_all_parts_stay() -> None:
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 10:50, 10:50] = 1
    for aim in (
        Aim(),
        Aim(keep=(LEFT, RIGHT)),
        Aim(largest_only=True),
        Aim(drop=((0.0, 0.0), (1.0, 1.0), (-3.0, 9.0))),
    ):
        chosen = choose(mask, aim, 64, 64)
        assert chosen is not None
        assert chosen.mask is mask
        assert chosen.weights is None


@pytest.mark.parametrize("seed", range(12))
def test_any_mask_and_any_spots_give_a_mask_or_a_clear_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = [(1, 1), (1, 300), (257, 3), (300, 301)][seed % 4]
    values = rng.random(size, dtype=np.float32)
    mask = torch.from_numpy(np.where(rng.random(size) < rng.choice([0, 0.02, 0.5, 1]), values, 0))[None, None]

    def spots(most: int) -> tuple[tuple[float, float], ...]:
        return tuple((float(x), float(y)) for x, y in rng.uniform(-0.2, 1.2, (rng.integers(most), 2)))

    for _ in range(4):
        aim = Aim(
            spots(rng.choice([1, 3])),
            spots(9),
            bool(rng.random() < 0.3),
            (0.2, 0.2, 0.8, 0.8) if rng.random() < 0.5 else None,
        )
        try:
            chosen = choose(mask, aim, int(rng.integers(1, 5000)), int(rng.integers(1, 5000)))
        except InvalidOptions:
            continue
        if chosen is not None:
            assert isinstance(chosen, Chosen)
            assert chosen.mask.shape == mask.shape
            assert (chosen.mask <= mask).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_part_is_divided_the_same_wherever_it_is(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    body = np.zeros((60, 80), np.bool_)
    top, left = rng.integers(0, 30, 2).tolist()
    body[top : top + 30, left : left + 20] = True
    body[top + 10 : top + 20, left + 15 : left + 45] = True
    colours = rng.random((60, 80, 3), np.float32) / np.float32(9)
    colours[:, left + 20 :] += np.float32(0.5)
    one, other = np.zeros_like(body), np.zeros_like(body)
    one[top + 5, left + 2 : left + 5] = other[top + 12, left + 40 : left + 43] = True
    found = flood.parted(Ground(colours, body), one, other)
    monkeypatch.setattr(flood, "_around", lambda marked: (slice(None), slice(None)))
    assert 0 < found.sum() < body.sum()
    assert np.array_equal(found, flood.parted(Ground(colours, body), one, other))


def test_many_points_on_small_parts_divide_each(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Spot] = []
    swept: list[int] = []
    nearest, distances = Grid.nearest, flood._distances

    def noted(grid: Grid, labels: cells.Labels, spot: Spot, reach: float) -> int:
        looked.append(spot)
        return nearest(grid, labels, spot, reach)

    def counted(features: flood.Stack, length: cells.Values, *rest: Any) -> flood.Stack:
        swept.append(length.size)
        return distances(features, length, *rest)

    monkeypatch.setattr(Grid, "nearest", noted)
    monkeypatch.setattr(flood, "_distances", counted)
    mask = torch.zeros(1, 1, 250, 250)
    spots = [(row, column) for row in range(5) for column in range(5)]
    for row, column in spots:
        mask[0, 0, 50 * row + 5 : 50 * row + 15, 50 * column + 5 : 50 * column + 25] = 1
    keep = tuple(((column + 0.16) / 5, (row + 0.2) / 5) for row, column in spots)
    drop = tuple(((column + 0.44) / 5, (row + 0.2) / 5) for row, column in spots)
    chosen = choose(mask, Aim(keep=keep, drop=drop), 250, 250)
    assert chosen is not None
    for row, column in spots:
        part = chosen.mask[0, 0, 50 * row + 5 : 50 * row + 15, 50 * column + 5 : 50 * column + 25]
        assert part[:, :5].min() > 0.99
        assert part[:, 15:].max() < 0.01
    assert len(looked) == 2 * len(spots)  # each looks at the whole mask
    assert sum(swept) < 2 * mask.numel()  # as a division of one part


def test_large_parts_that_interlace_are_divided_up_to_a_limit() -> None:
    rows, columns = np.mgrid[:256, :256]
    mask = torch.from_numpy(((columns - rows) % 8 < 3).astype(np.float32))[None, None]
    starts = [
        8 * number + 1 for number in range(-24, 24)
    ]  # each is the column of a diagonal stripe in the first row
    near, far = (
        tuple(
            ((max(0, start) + along) / 256, (max(0, -start) + along) / 256)
            for start in starts
            for along in [int(share * (256 - abs(start)))]
        )
        for share in (0.2, 0.8)
    )
    with pytest.raises(InvalidOptions, match="fewer parts"):
        choose(mask, Aim(keep=near, drop=far), 256, 256)
    assert choose(mask, Aim(keep=near[20:24], drop=far[20:24]), 256, 256) is not None
