"""The photo's own shadow in results: where it is laid, what is over it, and what it leaves as it was."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from cutout.inference.composition import Composed, Scene, compose
from cutout.inference.engine import Engine
from cutout.inference.imaging.geometry import Box, Layout, parse_margin, parse_region
from cutout.inference.limits import DEFAULT_SIZES
from cutout.inference.options import Options
from cutout.inference.removal import NO_SHADOW
from tests.fakes import fake_engine, open_picture

Array = npt.NDArray[np.uint8]
HEIGHT, WIDTH = 200, 240
SUBJECT = Box(90, 60, 60, 80)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)


def spot(row: float, column: float, size: float) -> npt.NDArray[np.floating]:
    shadow: npt.NDArray[np.floating] = 0.5 * np.exp(-((ROWS - row) ** 2 + (COLUMNS - column) ** 2) / size**2)
    return shadow


def scene(shadow: npt.NDArray[np.floating], level: int = 255) -> Scene:
    """A rectangle of random colours whose shadow, [H,W], is as large as the photo."""
    photo = torch.full((HEIGHT, WIDTH, 3), 255, dtype=torch.uint8)
    alpha = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
    alpha[SUBJECT.rows, SUBJECT.columns] = level
    rgb = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    cast = torch.from_numpy(shadow.astype(np.float32))[None, None]
    return Scene(photo, Box(0, 0, WIDTH, HEIGHT), rgb, alpha, cast=cast)


def composed(of: Scene, **options: Any) -> Composed:
    options = {"keep_shadow": True, **options}
    return compose(of, Options(**options), DEFAULT_SIZES, lambda facts: facts.numpy())


def test_a_shadow_is_black_under_the_subject() -> None:
    shadow = spot(140, 150, 25)
    of = scene(shadow, level=100)
    pixels = composed(of).pixels.numpy()
    share = of.alpha.numpy() / 255
    total = share + shadow * (1 - share)
    np.testing.assert_allclose(pixels[..., 3], 255 * total, atol=1)
    seen = total > 0.1
    colours = of.rgb.numpy() * (share / np.maximum(total, 1e-6))[..., None]
    np.testing.assert_allclose(pixels[..., :3][seen], colours[seen], atol=1.01)
    assert not pixels[..., :3][(share == 0) & (total > 0)].any()


def test_an_opaque_subject_stays_bit_for_bit_and_so_do_the_facts_about_it() -> None:
    of = scene(spot(140, 150, 25))
    result, without = composed(of), compose(of, Options(), DEFAULT_SIZES, lambda facts: facts.numpy())
    part = result.pixels[SUBJECT.rows, SUBJECT.columns]
    assert torch.equal(part[..., :3], of.rgb[SUBJECT.rows, SUBJECT.columns])
    assert (part[..., 3] == 255).all()
    assert result.subject == SUBJECT
    bare = composed(Scene(of.photo, of.part, of.rgb, of.alpha))
    assert (result.coverage, result.of_photo) == (bare.coverage, bare.of_photo)
    assert without.subject == SUBJECT


def test_on_its_own_ground_the_result_is_the_photo() -> None:
    shadow = spot(140, 150, 25)
    pixels = composed(scene(shadow), background=(200, 180, 160)).pixels.numpy()
    outside = np.ones((HEIGHT, WIDTH), np.bool_)
    outside[SUBJECT.rows, SUBJECT.columns] = False
    expected = np.array([200, 180, 160]) * (1 - shadow)[..., None]
    np.testing.assert_allclose(pixels[outside], expected[outside], atol=1)


def test_with_trim_the_shadow_comes_along_as_far_as_the_margin() -> None:
    of = scene(spot(140, 150, 25))
    whole = composed(of).pixels
    trimmed = composed(of, layout=Layout(trim=True, margin=parse_margin("10px 40px 30px 20px")))
    assert trimmed.subject == Box(20, 10, 60, 80)
    assert torch.equal(trimmed.pixels, whole[50:170, 70:190])


@pytest.mark.parametrize("scale", [0.4, 0.9])
def test_on_a_canvas_the_shadow_is_scaled_and_moved_with_the_subject(scale: float) -> None:
    row, column = 140.0, 155.0
    of = scene(spot(row, column, 20))
    layout = Layout(canvas=(500, 300), scale=scale, position=(0.2, 0.3))
    result = composed(of, layout=layout)
    box = result.subject
    assert box is not None
    factor = box.height / SUBJECT.height
    alpha = result.pixels[..., 3].numpy().astype(float)
    alpha[box.rows, box.columns] = 0
    rows, columns = np.mgrid[:300, :500] + 0.5
    middle = (
        box.top + factor * (row + 0.5 - SUBJECT.top),
        box.left + factor * (column + 0.5 - SUBJECT.left),
    )
    expected = 127.5 * np.exp(-((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2) / (20 * factor) ** 2)
    expected[box.rows, box.columns] = 0
    assert np.abs(alpha - expected).max() < 4
    # The subject itself stands where it stands without a shadow.
    bare = composed(Scene(of.photo, of.part, of.rgb, of.alpha), layout=layout)
    assert bare.subject == box


def test_beyond_the_photo_there_is_no_shadow() -> None:
    shadow = np.full((HEIGHT, WIDTH), 0.3)
    result = composed(scene(shadow), layout=Layout(trim=True, margin=parse_margin("100px 150px")))
    alpha = result.pixels[..., 3].numpy()
    # The photo's own border is 60 above, 90 to the left and right and 60 below the subject.
    inside = np.zeros_like(alpha, np.bool_)
    inside[40:240, 60:300] = True
    assert not alpha[~inside].any()
    assert (alpha[inside] >= 76).all()


def test_no_subject_has_no_shadow() -> None:
    of = scene(np.full((HEIGHT, WIDTH), 0.3), level=0)
    assert not composed(of).pixels.any()


DISTANCE = np.hypot((ROWS + 0.5) / HEIGHT - 0.5, (COLUMNS + 0.5) / WIDTH - 0.5)


def photo(shadow: npt.NDArray[np.floating] | float, radius: float = 0.3) -> bytes:
    """Encode a red disc on white; with this radius it is what the fake network finds in the whole photo."""
    inside = np.less(DISTANCE, radius)
    light = np.where(inside[..., None], (200.0, 40, 30), (240.0, 240, 240))
    shaded = light * np.where(inside, 1, 1 - shadow)[..., None]
    noise = np.random.default_rng(3).normal(0, 1.5, shaded.shape)
    out = io.BytesIO()
    Image.fromarray(np.clip(np.rint(shaded + noise), 0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


SHADOW = spot(162, 150, 20)
OUTSIDE = DISTANCE > 0.34


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with fake_engine() as opened:
        yield opened


# Of a part of the photo the fake network finds a disc that is as much smaller.
@pytest.mark.parametrize(("region", "radius"), [(None, 0.3), ("10% 10% 90% 90%", 0.24)])
def test_the_engine_keeps_the_shadow_of_a_photo(engine: Engine, region: str | None, radius: float) -> None:
    layout = Layout(region=None if region is None else parse_region(region))
    data = photo(SHADOW, radius)
    done = engine.remove(data, Options(keep_shadow=True, layout=layout))
    bare = engine.remove(data, Options(layout=layout))
    alpha = np.asarray(open_picture(done.data))[..., 3]
    where = OUTSIDE & (SHADOW > 0.05)
    assert np.abs(alpha / 255 - SHADOW)[where].mean() < 0.03
    assert (done.subject, done.coverage) == (bare.subject, bare.coverage)
    assert NO_SHADOW not in done.notes
    without = np.asarray(open_picture(bare.data))[..., 3]
    assert not without[where].any()
    np.testing.assert_array_equal(alpha[without == 255], 255)


def test_a_photo_without_a_shadow_says_so_and_is_the_same_as_without_the_option(engine: Engine) -> None:
    done = engine.remove(photo(0.0), Options(keep_shadow=True))
    bare = engine.remove(photo(0.0), Options())
    assert done.notes == (NO_SHADOW,)
    assert bare.notes == ()
    assert done.data == bare.data


def test_a_photo_that_is_scaled_down_has_its_shadow(engine: Engine) -> None:
    done = engine.remove(photo(SHADOW), Options(keep_shadow=True, layout=Layout(max_pixels=12_000)))
    alpha = np.asarray(open_picture(done.data))[..., 3]
    assert done.notes == ()
    row, column = round(165 / HEIGHT * done.height), round(150 / WIDTH * done.width)
    assert alpha[row, column] > 60
