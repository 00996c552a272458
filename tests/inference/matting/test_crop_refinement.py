"""The second pass: the crop it uses, and which parts of its mask are accepted."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.matting.crop_refinement import REACH, box_around, merge

SIZE = 128
HEIGHT, WIDTH = 600, 900


def disc(size: int, row: float, column: float, radius: float, softness: float = 1.0) -> Tensor:
    """Return a disc as a mask [1,1,size,size]; all lengths are in its pixels."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    distance = ((rows + 0.5 - row) ** 2 + (columns + 0.5 - column) ** 2).sqrt()
    return torch.sigmoid((radius - distance) * 2 / softness)[None, None]


FIRST = disc(SIZE, 64, 64, 16)


def second(mask: Tensor = FIRST) -> Tensor:
    """Return the mask of the crop from a perfect network: the first mask's disc, at the crop's scale."""
    box = box_around(mask, HEIGHT, WIDTH)
    assert box is not None
    rows = torch.linspace(box.top, box.bottom, 2 * SIZE + 1)[1::2] * SIZE / HEIGHT
    columns = torch.linspace(box.left, box.right, 2 * SIZE + 1)[1::2] * SIZE / WIDTH
    distance = ((rows[:, None] - 64) ** 2 + (columns - 64) ** 2).sqrt()
    return torch.sigmoid((16 - distance) * 8)[None, None]


def merged(second_mask: Tensor) -> Tensor | None:
    box = box_around(FIRST, HEIGHT, WIDTH)
    assert box is not None
    return merge(FIRST, second_mask, box, HEIGHT, WIDTH)


def test_the_box_holds_the_subject_with_a_margin() -> None:
    box = box_around(FIRST, HEIGHT, WIDTH)
    assert box is not None
    # The disc is 150 pixels high and 225 wide in the photo; a margin of 15 % of 225 is added on every side.
    assert abs(box.top - (300 - 75 - 34)) <= 5
    assert abs(box.bottom - (300 + 75 + 34)) <= 5
    assert abs(box.left - (450 - 112 - 34)) <= 8
    assert abs(box.right - (450 + 112 + 34)) <= 8


def test_the_box_ends_where_the_photo_ends() -> None:
    box = box_around(disc(SIZE, 2, 126, 12), HEIGHT, WIDTH)
    assert box is not None
    assert (box.top, box.right) == (0, WIDTH)
    assert box.bottom < HEIGHT


def test_a_large_subject_is_not_looked_at_again() -> None:
    assert box_around(disc(SIZE, 64, 64, 40), HEIGHT, WIDTH) is None
    assert box_around(torch.zeros(1, 1, SIZE, SIZE), HEIGHT, WIDTH) is None


def test_a_surer_second_look_is_taken_at_the_edge() -> None:
    sharp = second()
    result = merged(sharp)
    assert result is not None
    torch.testing.assert_close(result, sharp, atol=0.02, rtol=0)


def test_a_second_look_that_loses_the_subject_is_not_believed() -> None:
    assert merged(torch.zeros(1, 1, SIZE, SIZE)) is None
    assert merged(disc(SIZE, 64, 64, 20)) is None


def test_a_second_look_that_takes_the_background_in_is_not_believed() -> None:
    assert merged(torch.ones(1, 1, SIZE, SIZE)) is None


def test_a_second_look_that_is_less_sure_is_not_believed() -> None:
    # Blurred; 97 % of it is the same subject.
    blurred = F.avg_pool2d(second(), 11, 1, 5, count_include_pad=False)
    assert merged(blurred) is None


def test_a_hole_where_the_first_look_was_sure_is_filled() -> None:
    holed = second()
    holed[..., 60:68, 60:68] = 0
    result = merged(holed)
    assert result is not None
    assert result[..., 60:68, 60:68].min() > 0.95


def test_a_speck_where_the_first_look_saw_background_is_left_out() -> None:
    specked = second()
    specked[..., :8, :8] = 1
    result = merged(specked)
    assert result is not None
    assert result[..., :8, :8].max() < 0.1
    assert REACH < 8
