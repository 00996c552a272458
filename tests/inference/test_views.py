"""A view shows a refinement in a small picture: the same floods, no jump to the full size, and little work."""

import io
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageDraw

from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import MasksUnusable
from cutout.inference.imaging import decode
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_box
from cutout.inference.masked_photo import MaskedPhoto, View
from cutout.inference.matting import flood, refinement
from cutout.inference.matting.cells import Cells
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.fakes import BLUE, open_picture, stroke_mask
from tests.inference.test_hinted_subjects import on_the_cpu
from tests.pretend_engine import RED, FindsRed

WIDTH, HEIGHT = 600, 450
MOST = 30_000  # three times smaller along each side
INDUSTRY = Options(tier=Tier.INDUSTRY)
DROPPED = Hints(drop_mask=Picture.of(stroke_mask(25, 45, 30, 50)))
KEPT = Hints(keep_mask=Picture.of(stroke_mask(70, 70, 90, 80)))


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with on_the_cpu(FindsRed(), 256) as opened:
        yield opened


def photo() -> bytes:
    """Draw two red things and a green one on a ground with grain."""
    image, out = Image.new("RGB", (WIDTH, HEIGHT), BLUE), io.BytesIO()
    pen = ImageDraw.Draw(image)
    pen.ellipse((120, 170, 210, 260), RED)
    pen.ellipse((260, 140, 330, 280), RED)
    pen.rectangle((400, 300, 560, 380), (60, 150, 60))
    noise = np.random.default_rng(0).integers(-12, 13, (HEIGHT, WIDTH, 3))
    Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8)).save(out, "PNG")
    return out.getvalue()


PHOTO = photo()


def masked(engine: Engine, options: Options, data: bytes = PHOTO) -> MaskedPhoto:
    """Cut the photo out, and return it with its masks, as one that is not known yet."""
    found = engine.submit(data, options, keep_masks=True).result().masked
    assert found is not None
    return replace(found, id=uuid.uuid4().hex)


def levels(cutout: Cutout, size: tuple[int, int] | None = None) -> npt.NDArray[np.float32]:
    alpha = open_picture(cutout.data).getchannel("A")
    if size is not None:
        alpha = alpha.resize(size, Image.Resampling.BOX)
    return np.asarray(alpha, np.float32)


@pytest.mark.parametrize("tier", [Tier.BASIC, Tier.STANDARD, Tier.INDUSTRY, Tier.PREVIEW])
def test_a_view_is_like_the_result_made_smaller(tier: Tier, engine: Engine) -> None:
    first, hints = Options(tier=tier), replace(DROPPED, keep_mask=KEPT.keep_mask)
    source, options = masked(engine, first), replace(first, hints=hints)
    full = engine.submit(source, options).result()
    shown = engine.submit(View(source, MOST), options).result()
    # A tier's own limit has rounded the size before.
    assert (shown.width, shown.height) == (200 if tier is not Tier.PREVIEW else 199, 150)
    apart = np.abs(levels(shown) - levels(full, (shown.width, shown.height)))
    assert np.mean(apart > 64) < 0.001
    assert apart.mean() < 1
    assert shown.masked is None
    assert (shown.tier, shown.checkpoint, shown.no_foreground) == (tier, full.checkpoint, full.no_foreground)
    # A photo that is no larger has its own size, and the bytes of the result.
    assert engine.submit(View(source, WIDTH * HEIGHT), options).result().data == full.data


def test_strokes_flood_to_the_same_cells(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    reached: list[Cells] = []
    flooded = flood.flooded

    def remember(*given: Any) -> Cells:
        reached.append(flooded(*given))
        return reached[-1]

    monkeypatch.setattr(flood, "flooded", remember)
    noise = np.random.default_rng(1).integers(0, 256, (HEIGHT // 2, WIDTH // 2, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    for data, hints in ((PHOTO, DROPPED), (PHOTO, KEPT), (out.getvalue(), KEPT)):
        source = masked(engine, INDUSTRY, data)
        for given in (source, View(source, MOST), View(source, MOST), View(source, MOST // 3)):
            engine.submit(given, replace(INDUSTRY, hints=hints)).result()
        full, *views = reached
        assert full.any()
        assert all(np.array_equal(one, full) for one in views)
        reached.clear()


def test_the_next_view_decodes_nothing_and_refines_the_change_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []
    refined: list[int] = []
    asked: list[float] = []  # the share of each in which edges are refined
    source = masked(engine, INDUSTRY)
    # A photo with its masks, whose file needs to be read no more.
    reading, refine = decode.decode, refinement.refine

    def read(data: bytes, *others: Any, **named: Any) -> decode.Photo:
        if data == source.photo:
            decoded.append(data)
        return reading(data, *others, **named)

    def count(
        rgb: torch.Tensor, mask: torch.Tensor, near: torch.Tensor | None = None, scale: float = 1
    ) -> Any:
        refined.append(rgb.shape[0] * rgb.shape[1])
        asked.append(1 if near is None else float((near > 0).float().mean()))
        return refine(rgb, mask, near, scale)

    monkeypatch.setattr(decode, "decode", read)
    monkeypatch.setattr(refinement, "refine", count)
    engine.submit(View(source, MOST), INDUSTRY).result()
    assert len(decoded) == 1
    assert (refined[0], asked[0]) == (MOST, 1)
    refined.clear()
    asked.clear()
    options = replace(INDUSTRY, hints=KEPT)
    first = engine.submit(View(source, MOST), options).result()
    assert len(decoded) == 1
    assert 0 < refined[0] < MOST / 3
    assert 0 < asked[0] < 0.9
    # Another size of view, and one of a photo that is not known, give the same as at first.
    engine.submit(View(source, MOST // 2), INDUSTRY).result()
    unknown = replace(source, id=uuid.uuid4().hex)
    assert engine.submit(View(unknown, MOST), options).result().data == first.data
    assert len(decoded) == 3


def test_views_change_nothing_of_results(engine: Engine) -> None:
    options = replace(INDUSTRY, hints=DROPPED)
    fresh = engine.submit(PHOTO, options, keep_masks=True).result()
    source = masked(engine, INDUSTRY)
    for _ in range(2):
        engine.submit(View(source, MOST), options).result()
        assert engine.submit(source, options).result().data == fresh.data
    # What is known of a view is not taken for a result of a smaller photo, which the network was not shown.
    with pytest.raises(MasksUnusable):
        engine.submit(source, replace(options, layout=Layout(max_pixels=MOST))).result()


def subject(cutout: Cutout) -> tuple[float, ...]:
    """Return the subject's box and the picture's height in shares of its width."""
    assert cutout.subject is not None
    box, unit = cutout.subject, cutout.width
    return box.left / unit, box.top / unit, box.right / unit, box.bottom / unit, cutout.height / unit


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "trim": lambda: Layout(trim=True, margin=parse_margin("30px 60px")),
    "canvas": lambda: Layout(canvas=(400, 300), margin=parse_margin("30px")),
    "region": lambda: Layout(region=parse_region("10% 20% 90% 90%")),
    "smaller": lambda: Layout(max_pixels=120_000),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("box", [None, "15% 25% 60% 75%"], ids=["no box", "box"])
def test_a_view_has_the_proportions_of_the_result(layout: str, box: str | None, engine: Engine) -> None:
    hints = Hints(box=None if box is None else parse_box(box))
    # With the second look where the box limits that too.
    tier = Tier.BASIC if box is None else Tier.INDUSTRY
    first = Options(tier=tier, layout=LAYOUTS[layout](), hints=hints)
    source = masked(engine, first)
    options = replace(first, hints=replace(DROPPED, box=hints.box))
    full = engine.submit(source, options).result()
    shown = engine.submit(View(source, MOST), options).result()
    assert shown.width < full.width / 1.4
    assert subject(shown) == pytest.approx(subject(full), abs=3.5 / shown.width)
