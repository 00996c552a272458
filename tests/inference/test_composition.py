"""The layout of results, what stands behind and under the subject, and the facts about it, without a network."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from cutout.inference.composition import Composed, Scene, compose
from cutout.inference.errors import ResultTooLarge
from cutout.inference.imaging.backgrounds import BlurredPhoto, Gradient, Picture
from cutout.inference.imaging.compositing import on_layer
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import (
    Box,
    Layout,
    Length,
    Margin,
    Unit,
    parse_margin,
    place,
)
from cutout.inference.imaging.shadow import soft_shadow
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits
from cutout.inference.options import Options

RED, BLUE = (200, 30, 20), (20, 40, 220)
Array = npt.NDArray[np.uint8]


def scene(height: int, width: int, subject: Box | None, *, level: int = 255) -> Scene:
    """A blue photo with a red rectangle; the cut-out's colours are random, so that each pixel can be recognised."""
    photo = torch.tensor(BLUE, dtype=torch.uint8).repeat(height, width, 1)
    alpha = torch.zeros(height, width, dtype=torch.uint8)
    if subject is not None:
        photo[subject.rows, subject.columns] = torch.tensor(RED, dtype=torch.uint8)
        alpha[subject.rows, subject.columns] = level
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    return Scene(photo, Box(0, 0, width, height), rgb, alpha)


def composed(of: Scene, sizes: SizeLimits = DEFAULT_SIZES, **options: object) -> Composed:
    return compose(of, Options(**options), sizes, lambda facts: facts.numpy())  # type: ignore[arg-type]


def box_in(alpha: Tensor) -> Box:
    rows, columns = alpha.amax(1).nonzero(), alpha.amax(0).nonzero()
    top, left = int(rows[0]), int(columns[0])
    return Box(left, top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1)


def test_the_subject_stands_where_the_formula_says_in_a_thousand_random_layouts() -> None:
    rng = np.random.default_rng(7)

    def length(most: int) -> Length:
        return Length(float(rng.integers(0, most)), Unit.PERCENT if rng.random() < 0.5 else Unit.PIXELS)

    for _ in range(1000):
        width, height = (int(rng.integers(1, 70)) for _ in range(2))
        left, top = int(rng.integers(0, width)), int(rng.integers(0, height))
        subject = Box(
            left, top, int(rng.integers(1, width - left + 1)), int(rng.integers(1, height - top + 1))
        )
        layout = Layout(
            trim=bool(rng.random() < 0.5),
            margin=Margin(*(length(40) for _ in range(4))),
            scale=float(rng.uniform(0.1, 1)) if rng.random() < 0.5 else None,
            position=(float(rng.random()), float(rng.random())) if rng.random() < 0.5 else None,
            canvas=(int(rng.integers(1, 90)), int(rng.integers(1, 90))) if rng.random() < 0.4 else None,
        )
        result = composed(scene(height, width, subject), layout=layout)
        expected = place(subject, width, height, layout)
        assert result.pixels.shape == (expected.height, expected.width, 4), layout
        assert result.subject == expected.subject
        assert box_in(result.pixels[..., 3]) == expected.subject, (subject, layout)
        true = float((result.pixels[..., 3].float() / 255).mean())
        assert result.coverage == pytest.approx(true, abs=0.02)


def test_without_scaling_every_pixel_stays_as_it_is() -> None:
    subject = Box(5, 3, 11, 7)
    of = scene(20, 30, subject, level=77)
    result = composed(of, layout=Layout(trim=True, margin=parse_margin("1px 2px 3px 4px")))
    assert result.pixels.shape == (1 + 7 + 3, 4 + 11 + 2, 4)
    part = result.pixels[1:8, 4:15]
    assert torch.equal(part[..., :3], of.rgb[subject.rows, subject.columns])
    assert (part[..., 3] == 77).all()
    rest = result.pixels.clone()
    rest[1:8, 4:15] = 0
    assert not rest.any()


def test_scaling_takes_no_colour_from_what_is_transparent() -> None:
    of = scene(40, 40, Box(10, 10, 20, 20))
    of.rgb[:] = torch.tensor([0, 255, 0], dtype=torch.uint8)  # what is hidden is green
    of.rgb[10:30, 10:30] = torch.tensor(RED, dtype=torch.uint8)
    of.alpha[12, 12] = 1  # so that the box has edges of its own inside
    for size in ((7, 7), (93, 93)):
        pixels = composed(of, layout=Layout(canvas=size)).pixels
        seen = pixels[pixels[..., 3] > 0]
        assert (seen[:, :3].int() - torch.tensor(RED)).abs().max() <= 1


@pytest.mark.parametrize("layout", [Layout(), Layout(trim=True), Layout(scale=0.5), Layout(canvas=(12, 9))])
def test_without_a_subject_the_canvas_is_empty(layout: Layout) -> None:
    result = composed(scene(8, 10, None), layout=layout)
    assert result.pixels.shape[:2] == ((9, 12) if layout.canvas else (8, 10))
    assert not result.pixels.any()
    assert (result.subject, result.coverage) == (None, 0.0)


def test_a_part_of_a_photo_goes_back_to_its_place() -> None:
    whole = scene(20, 30, None)
    part = Box(10, 5, 8, 6)
    alpha = torch.full((6, 8), 200, dtype=torch.uint8)
    of = Scene(whole.photo, part, whole.rgb[part.rows, part.columns], alpha)
    result = composed(of)
    assert result.subject == part
    assert result.pixels.shape == (20, 30, 4)
    assert torch.equal(result.pixels[part.rows, part.columns, :3], of.rgb)
    assert int((result.pixels[..., 3] > 0).sum()) == 48


def test_a_result_that_is_too_large_is_refused() -> None:
    sizes = SizeLimits(pixels=1000, side=50)
    layout = Layout(trim=True, margin=parse_margin("100%"))
    with pytest.raises(ResultTooLarge, match="would have 48 × 48 pixels"):
        composed(scene(20, 20, Box(2, 2, 16, 16)), sizes, layout=layout)


def test_a_layer_under_a_cut_out_follows_porter_and_duff() -> None:
    rng = np.random.default_rng(1)
    rgb, alpha = rng.integers(0, 256, (30, 40, 3), np.uint8), rng.integers(0, 256, (30, 40), np.uint8)
    below = rng.random((30, 40), dtype=np.float32)
    colours, total = on_layer(
        torch.from_numpy(rgb), torch.from_numpy(alpha), (10, 20, 30), torch.from_numpy(below)
    )
    above = alpha / 255
    expected = above + (1 - above) * below
    np.testing.assert_allclose(total.numpy(), expected * 255, atol=0.51)
    premultiplied = above[..., None] * rgb + ((1 - above) * below)[..., None] * np.array([10, 20, 30])
    np.testing.assert_allclose(colours.numpy() * expected[..., None], premultiplied, atol=0.51)


def test_a_shadow_is_below_the_subject_and_soft() -> None:
    subject = Box(60, 60, 80, 80)
    of = scene(200, 200, subject)
    shadow = soft_shadow(of.alpha, subject, 0.5)
    assert float(shadow.max()) == pytest.approx(0.5, abs=0.02)
    assert float(shadow[142, 100]) > 2 * float(shadow[57, 100]), "it falls down"
    steps = shadow[:, 100].diff().abs()
    assert float(steps.max()) < 0.1
    result = composed(of, shadow=0.5).pixels
    inside = result[subject.rows, subject.columns]
    assert torch.equal(inside[..., :3], of.rgb[subject.rows, subject.columns]), "the subject covers it"
    under = result[142, 100]
    assert 40 < int(under[3]) < 128
    assert int(under[:3].max()) <= 1, "it is black"


def test_a_shadow_darkens_a_background() -> None:
    of = scene(200, 200, Box(60, 60, 80, 80))
    bright = composed(of, background=(255, 255, 255), shadow=0.5, format=Format.JPG).pixels
    assert bright.shape == (200, 200, 3)
    assert int(bright[142, 100, 0]) < 220
    assert int(bright[10, 10, 0]) == 255


def test_translucent_backgrounds_keep_their_opacity() -> None:
    of = scene(10, 10, Box(2, 2, 5, 5))
    result = composed(of, background=(255, 0, 0, 128)).pixels
    assert result[0, 0].tolist() == [255, 0, 0, 128]
    assert int(result[3, 3, 3]) == 255
    flat = composed(of, background=(255, 0, 0, 128), format=Format.JPG).pixels
    assert flat[0, 0].tolist() == [255, 127, 127], "a JPEG shows it on white"


@pytest.mark.parametrize(
    ("degrees", "first", "last"), [(180, (0, 20), (39, 20)), (90, (20, 0), (20, 39)), (0, (39, 20), (0, 20))]
)
def test_a_gradient_runs_in_its_direction(
    degrees: float, first: tuple[int, int], last: tuple[int, int]
) -> None:
    background = Gradient((0, 100, 200), (200, 100, 0), degrees)
    pixels = composed(scene(40, 40, None), background=background).pixels
    assert pixels[first][0] < 4
    assert pixels[last][0] > 196
    assert (pixels[..., 1] == 100).all()


def test_a_picture_covers_the_canvas_centred() -> None:
    picture = torch.zeros(10, 40, 3, dtype=torch.uint8)
    picture[:, 15:25] = 255  # the middle quarter is white
    of = scene(20, 20, None)
    of = Scene(of.photo, of.part, of.rgb, of.alpha, None, picture)
    pixels = composed(of, background=Picture("")).pixels
    assert pixels.shape == (20, 20, 3)
    assert int(pixels[:, 3:17].min()) == 255


@pytest.mark.parametrize("side", [200, 1111])
def test_a_blurred_photo_has_no_ghost_of_the_subject(side: int) -> None:
    # At the second size the blur is computed in cells, which the subject's edges divide.
    subject = Box(61, 43, 80, 100)
    pixels = composed(scene(side, side, subject), background=BlurredPhoto(5.0)).pixels
    outside = pixels.clone()
    outside[subject.rows, subject.columns] = torch.tensor(BLUE, dtype=torch.uint8)
    assert (outside.int() - torch.tensor(BLUE)).abs().max() <= 1
    # Also where the subject is laid down elsewhere.
    moved = composed(
        scene(200, 200, subject), background=BlurredPhoto(5.0), layout=Layout(scale=0.2, position=(0, 0))
    ).pixels
    assert (moved[60:140, 60:140].int() - torch.tensor(BLUE)).abs().max() <= 2


@pytest.mark.parametrize("subject", [Box(0, 0, 60, 60), Box(0, 1, 60, 59)])
def test_where_all_is_subject_the_photo_itself_is_blurred(subject: Box) -> None:
    of = scene(60, 60, subject, level=100)
    of.photo[:] = 200
    pixels = composed(of, background=BlurredPhoto(5.0)).pixels
    below = (pixels.float() - of.rgb.float() * (of.alpha / 255)[..., None]) / (1 - of.alpha / 255)[..., None]
    assert (below - 200).abs().max() < 2


def test_a_blurred_photo_is_blurred() -> None:
    of = scene(200, 200, None)
    of.photo[:, ::2] = 255
    pixels = composed(of, background=BlurredPhoto(4.0)).pixels.int()
    assert (pixels[80:120, 80:120].amax((0, 1)) - pixels[80:120, 80:120].amin((0, 1))).max() <= 3


@pytest.mark.parametrize("side", [1, 2, 3])
def test_everything_works_on_a_pixel(side: int) -> None:
    of = scene(side, side, Box(0, 0, 1, 1))
    picture = torch.zeros(1, 1, 3, dtype=torch.uint8)
    of = Scene(of.photo, of.part, of.rgb, of.alpha, None, picture)
    for background in (None, (1, 2, 3), Gradient((0, 0, 0), (255, 255, 255)), BlurredPhoto(), Picture("")):
        for layout in (Layout(), Layout(trim=True), Layout(canvas=(5, 3)), Layout(scale=0.1)):
            composed(of, background=background, layout=layout, shadow=0.5)
