"""Strokes, filled holes and the least coverage through the whole engine, on drawn scenes."""

import io
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cutout.inference.engine import Engine
from cutout.inference.errors import InvalidOptions, NoSubject
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Layout, parse_region
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.fakes import BLUE
from tests.inference.test_hinted_subjects import (
    HEIGHT,
    SCENES,
    WIDTH,
    Alpha,
    MarksRed,
    Subject,
    alpha_of,
    block,
    drawn,
    ellipse,
    likeness,
    on_the_cpu,
)
from tests.pretend_engine import RED, pretended_engine

Colour = tuple[int, int, int]
Line = tuple[tuple[float, float], ...]
# The network of these tests marks what has much red.
YELLOW, GREEN = (210, 190, 60), (60, 150, 70)
TWO_PERCENT = round(0.02 * WIDTH)


def painted(*layers: tuple[Alpha, Colour]) -> bytes:
    """Encode a photo of layers, each over those before it, on blue, with some grain."""
    photo = np.full((HEIGHT, WIDTH, 3), BLUE, np.float32)
    for alpha, colour in layers:
        photo += alpha[..., None] * (np.array(colour, np.float32) - photo)
    photo += np.random.default_rng(0).normal(0, 2, photo.shape)
    out = io.BytesIO()
    Image.fromarray(photo.round().clip(0, 255).astype(np.uint8)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def strokes(*lines: Line, wide: float = 8, scale: float = 1.0) -> Picture:
    """Draw white lines between points of the photo on black, in a picture of this share of the photo's size."""
    image = Image.new("L", (round(WIDTH * scale), round(HEIGHT * scale)))
    for line in lines:
        points = [(x * scale, y * scale) for x, y in line]
        ImageDraw.Draw(image).line(points, fill=255, width=max(1, round(wide * scale)))
    out = io.BytesIO()
    image.save(out, "PNG")
    return Picture.of(out.getvalue())


def across(x: float, y: float, half: float) -> Line:
    return ((x - half, y), (x + half, y))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with on_the_cpu(MarksRed(), 288) as opened:
        yield opened


@pytest.mark.parametrize(("scale", "scenes"), [(0.3, SCENES[:2]), (1.0, SCENES[2:4]), (2.5, SCENES[4:6])])
def test_a_stroke_picks_each_subject_alone(engine: Engine, scale: float, scenes: list[list[Subject]]) -> None:
    for subjects in scenes:
        data = drawn(*(subject.alpha for subject in subjects))
        for subject in subjects:
            mask = strokes(across(subject.x, subject.y, 12), scale=scale)
            assert likeness(alpha_of(engine, data, Hints(keep_mask=mask)), subject.alpha) >= 0.85


BODY, HANDLE = ellipse(150, 130, 60, 70), block(205, 110, 290, 124)
APART = ellipse(320, 40, 25, 20)
LOST = [(BODY, RED), (HANDLE, GREEN), (APART, GREEN)]


@pytest.mark.parametrize("tier", list(Tier))
def test_a_stroke_adds_what_the_network_lost_as_far_as_it_is_connected(engine: Engine, tier: Tier) -> None:
    data, true = painted(*LOST), np.maximum(BODY, HANDLE * (1 - BODY))
    assert alpha_of(engine, data, Hints(), tier)[117, 260] == 0
    found = alpha_of(engine, data, Hints(keep_mask=strokes(across(250, 117, 20))), tier)
    assert likeness(found, true) >= 0.96
    assert found[113:121, 200:282].min() > 0.9, "neither a seam nor a blob"
    assert found[APART > 0].max() == 0


def test_a_stroke_that_is_wider_than_a_strap_takes_no_background_with_it(engine: Engine) -> None:
    found = alpha_of(engine, painted(*LOST), Hints(keep_mask=strokes(((215, 117), (285, 117)), wide=30)))
    assert likeness(found, np.maximum(BODY, HANDLE)) >= 0.96
    assert found[:, 220:][np.abs(np.arange(HEIGHT) - 117) > 7 + TWO_PERCENT].max() <= 1 / 255


def test_a_stroke_to_drop_stops_a_flood(engine: Engine) -> None:
    data = painted((BODY, RED), (np.maximum(HANDLE, APART), GREEN), (block(288, 50, 300, 117), GREEN))
    mask = strokes(across(250, 117, 20))
    assert alpha_of(engine, data, Hints(keep_mask=mask))[40, 320] > 0.9, "all of it is connected"
    found = alpha_of(engine, data, Hints(keep_mask=mask, drop_mask=strokes(across(320, 40, 12))))
    assert found[117, 220:280].min() > 0.9
    assert found[40, 320] == 0


def test_a_subject_that_the_network_does_not_find_comes_by_a_stroke(engine: Engine) -> None:
    data = painted((ellipse(180, 120, 70, 60), GREEN))
    assert engine.remove(data).no_foreground
    hints = Hints(keep_mask=strokes(across(180, 120, 30)))
    for tier in (Tier.BASIC, Tier.INDUSTRY):
        assert likeness(alpha_of(engine, data, hints, tier), ellipse(180, 120, 70, 60)) >= 0.96
    assert not engine.remove(data, Options(hints=hints, require_subject=True)).no_foreground


FALSE_PATCHES = {
    "apart": (ellipse(290, 120, 30, 40), RED, across(290, 120, 22)),
    "touching": (ellipse(230, 150, 40, 30), YELLOW, across(235, 152, 25)),
}


@pytest.mark.parametrize("where", FALSE_PATCHES)
@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.STANDARD, Tier.INDUSTRY])
def test_a_stroke_to_drop_removes_a_false_patch_and_nothing_else(
    engine: Engine, tier: Tier, where: str
) -> None:
    patch, colour, line = FALSE_PATCHES[where]
    true = BODY * (1 - patch)
    data = painted((BODY, RED), (patch, colour))
    before = alpha_of(engine, data, Hints(), tier)
    assert before[patch > 0.99].mean() > 0.95
    after = alpha_of(engine, data, Hints(drop_mask=strokes(line)), tier)
    assert likeness(after, true) >= 0.96
    assert after[(patch > 0.99) & (true == 0)].mean() < 0.02
    rows, columns = np.nonzero(patch > 0)
    far = np.ones_like(patch, bool)
    for row, column in zip(rows, columns, strict=True):
        far[
            max(0, row - TWO_PERCENT) : row + TWO_PERCENT + 1,
            max(0, column - TWO_PERCENT) : column + TWO_PERCENT + 1,
        ] = False
    assert np.abs(after - before)[far].max() <= 1 / 255


@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.PROFESSIONAL])
def test_touching_subjects_are_divided_along_their_border(engine: Engine, tier: Tier) -> None:
    """Nowhere is the two narrow: only their colours tell them apart."""
    front = ellipse(230, 130, 70, 75)
    data = painted((BODY, RED), (front, YELLOW))
    points = parse_points("130px 130px"), parse_points("250px 130px")
    left = alpha_of(engine, data, Hints(keep=points[0], drop=points[1]), tier)
    assert likeness(left, BODY * (1 - front)) >= 0.95
    right = alpha_of(engine, data, Hints(keep=points[1], drop=points[0]), tier)
    assert likeness(right, front) >= 0.95
    by_strokes = Hints(keep_mask=strokes(across(120, 130, 15)), drop_mask=strokes(across(250, 130, 25)))
    assert likeness(alpha_of(engine, data, by_strokes, tier), BODY * (1 - front)) >= 0.95


def test_hints_of_strokes_that_contradict_each_other_are_refused(engine: Engine) -> None:
    data, line = painted(*LOST), across(250, 117, 20)
    mask, blank = strokes(line), strokes()
    near = strokes(((225, 117), (275, 117)), wide=9, scale=2)
    for hints, says in (
        (Hints(keep_mask=mask, drop_mask=near), "both to keep and to drop"),
        (Hints(keep_mask=blank), "to keep has no white strokes"),
        (Hints(drop_mask=blank), "to drop has no white strokes"),
        (Hints(keep_mask=mask, box=parse_box("0 0 200px 240px")), "outside of the box"),
        (Hints(keep_mask=mask, keep=parse_points("320px 220px")), "No subject was found at point 1"),
        (Hints(keep_mask=Picture("gone")), "no longer exists"),
    ):
        with pytest.raises(InvalidOptions, match=says):
            engine.remove(data, Options(hints=hints))
    part = Options(hints=Hints(keep_mask=mask), layout=Layout(region=parse_region("0 0 50% 100%")))
    with pytest.raises(InvalidOptions, match="outside of the region"):
        engine.remove(data, part)
    beside = strokes(((150, 130), (232, 117)))  # shares its end with the other
    assert engine.remove(data, Options(hints=Hints(keep_mask=mask, drop_mask=beside))).subject


def test_strokes_are_of_the_photo_as_it_was_sent(engine: Engine) -> None:
    data, true = painted(*LOST), np.maximum(BODY, HANDLE)
    hints = Hints(keep_mask=strokes(across(250, 117, 20)))
    part = Layout(region=parse_region("60px 0 100% 100%"))
    assert likeness(alpha_of(engine, data, hints, layout=part), true) >= 0.95
    boxed = replace(hints, box=parse_box("80px 50px 300px 210px"))
    assert likeness(alpha_of(engine, data, boxed), true) >= 0.95
    small = alpha_of(engine, data, hints, layout=Layout(max_pixels=WIDTH * HEIGHT // 4))
    assert likeness(small, true[::2, ::2]) >= 0.9
    turned = Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_90)
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a viewer turns it clockwise
    turned.save(out, "PNG", exif=exif)
    assert likeness(alpha_of(engine, out.getvalue(), hints), true) >= 0.95


def test_holes_are_filled_where_that_is_asked(engine: Engine) -> None:
    ring = ellipse(120, 120, 70, 80) * (1 - ellipse(120, 120, 30, 40))
    bay = block(220, 40, 340, 200) * (1 - block(260, 40, 290, 130))
    data = drawn(ring, bay)
    kept = alpha_of(engine, data, Hints())
    assert max(kept[120, 120], kept[80, 275]) == 0
    filled = alpha_of(engine, data, Hints(fill_holes=True))
    assert filled[50:190, 115:125].min() > 0.99
    np.testing.assert_allclose(filled[:, 210:], kept[:, 210:], atol=1 / 255)
    spot = Hints(fill_holes=True, drop=parse_points("120px 120px"))
    assert alpha_of(engine, data, spot)[120, 120] == 0, "a hole that is marked stays"
    tiny = drawn(block(60, 60, 200, 200) * (1 - ellipse(130, 130, 3, 3)))
    assert alpha_of(engine, tiny, Hints(fill_holes=True))[120:140, 120:140].min() > 0.95


def test_a_subject_that_is_too_small_counts_as_none(engine: Engine) -> None:
    data = drawn(block(100, 100, 160, 160))  # 4.2 %
    assert not engine.remove(data, Options(hints=Hints(min_coverage=0.035))).no_foreground
    few = Options(hints=Hints(min_coverage=0.05))
    cutout = engine.remove(data, few)
    assert (cutout.no_foreground, cutout.subject, cutout.coverage) == (True, None, 0)
    assert not np.asarray(Image.open(io.BytesIO(cutout.data)))[..., 3].any()
    with pytest.raises(NoSubject):
        engine.remove(data, replace(few, require_subject=True))
    searched = replace(few, layout=Layout(region=parse_region("90px 90px 170px 170px")))
    assert not engine.remove(data, searched).no_foreground, "it takes most of what is searched"


@pytest.mark.slow
def test_strokes_work_on_a_gpu_as_on_the_cpu() -> None:
    data = painted(*LOST, (FALSE_PATCHES["touching"][0], YELLOW))
    hints = Hints(
        keep_mask=strokes(across(270, 117, 12)),
        drop_mask=strokes(FALSE_PATCHES["touching"][2]),
        fill_holes=True,
    )
    with on_the_cpu(MarksRed(), 288) as cpu, pretended_engine(288, network=MarksRed()) as gpu:
        for tier in (Tier.BASIC, Tier.INDUSTRY):
            there, here = alpha_of(gpu, data, hints, tier), alpha_of(cpu, data, hints, tier)
            assert here[117, 280] > 0.9
            assert np.abs(there - here).max() < 0.05
