"""A photo that is refined gives the bytes that a new removal with the same options gives, whatever the options are."""

import io
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from cutout.inference.engine import Engine
from cutout.inference.errors import InvalidOptions, NoSubject
from cutout.inference.imaging.backgrounds import BlurredPhoto, Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout, parse_margin, parse_region
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.masked_photo import MaskedPhoto, Source
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.fakes import BLUE, stroke_mask
from tests.inference.test_hinted_subjects import on_the_cpu
from tests.pretend_engine import RED, FindsRed

SIZES = ((1, 1), (1, 40), (60, 3), (160, 120), (120, 150), (240, 160))
KINDS = ("PNG", "own alpha", "CMYK", "on its side", "16 bit", "grey")
REFUSED = InvalidOptions, NoSubject


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with on_the_cpu(FindsRed(), 128) as opened:
        yield opened


def photo(rng: random.Random) -> bytes:
    """Draw a photo of up to four red things, of any kind of file."""
    (width, height), kind, out = rng.choice(SIZES), rng.choice(KINDS), io.BytesIO()
    image = Image.new("RGB", (width, height), BLUE)
    pen, exif = ImageDraw.Draw(image), Image.Exif()
    for _ in range(rng.randint(0, 4)):
        x, y, size = (
            rng.random() * width,
            rng.random() * height,
            rng.choice((0.05, 0.1, 0.2)) * min(width, height),
        )
        pen.ellipse((x - size, y - size, x + size, y + size), RED)
    noise = np.random.default_rng(rng.getrandbits(30)).integers(-3, 4, (height, width, 3))
    image = Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype(np.uint8))
    if kind == "own alpha":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    if kind == "CMYK":
        image = image.convert("CMYK")
    if kind == "16 bit":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if kind == "grey":
        image = image.convert("LA")
    if kind == "on its side":
        exif[274] = rng.randint(2, 8)
    image.save(out, "JPEG" if kind in ("CMYK", "on its side") else "PNG", exif=exif)
    return out.getvalue()


def hints(rng: random.Random, box: str | None) -> Hints:
    def some(value: Any) -> Any:
        return value if rng.random() < 0.4 else None

    def spots() -> str:
        return " ".join(f"{rng.random() * 100:.1f}%" for _ in range(2 * rng.randint(1, 3)))

    def strokes() -> Picture:
        left, top = rng.randrange(90), rng.randrange(90)
        return Picture.of(stroke_mask(left, top, left + rng.randint(1, 60), top + rng.randint(1, 9)))

    return Hints(
        box=None if box is None else parse_box(box),
        keep=some(parse_points(spots())) or (),
        drop=some(parse_points(spots())) or (),
        largest_only=rng.random() < 0.2,
        keep_mask=some(strokes()),
        drop_mask=some(strokes()),
        fill_holes=rng.random() < 0.3,
        min_coverage=some(rng.random() / 5) or 0.0,
        within=some(parse_box("20% 30% 70% 90%")),
    )


def laid_out(rng: random.Random, first: Layout) -> Layout:
    """Return a layout of the same view of the photo."""

    def some(value: Any) -> Any:
        return value if rng.random() < 0.4 else None

    layout = replace(
        first,
        trim=rng.random() < 0.3,
        scale=some(rng.choice((0.2, 0.7, 1.0))),
        position=some((rng.random(), rng.random())),
        canvas=some((rng.randint(1, 90), rng.randint(1, 90))),
    )
    has_room = layout.trim or layout.canvas is not None
    return replace(layout, margin=parse_margin("7% 3px 0 11%")) if has_room and rng.random() < 0.5 else layout


def refinements(rng: random.Random, first: Options, box: str | None) -> Iterator[Options]:
    """Yield options that the network sees the same photo with."""
    while True:
        options = replace(
            first,
            hints=hints(rng, box),
            format=rng.choice((Format.PNG, Format.JPG, Format.ZIP)),
            background=rng.choice((None, (1, 2, 3, 90), BlurredPhoto())),
            shadow=rng.choice((0.0, 0.0, 0.4)),
            keep_shadow=rng.random() < 0.2,
            require_subject=rng.random() < 0.2,
            mask_only=rng.random() < 0.2,
            layout=laid_out(rng, first.layout),
        )
        try:
            options.check()
        except InvalidOptions:
            continue
        yield options


def result(engine: Engine, source: Source, options: Options, *, keep_masks: bool = False) -> object:
    """Return all of a result but the time that it took, or the error."""
    try:
        cutout = engine.submit(source, options, keep_masks=keep_masks).result()
    except REFUSED as error:
        return str(error)
    return replace(cutout, masked=None, seconds={})


@pytest.mark.parametrize("seed", range(6))
def test_refining_gives_what_a_new_removal_gives(seed: int, engine: Engine) -> None:
    rng = random.Random(seed)
    box = rng.choice((None, "10% 10% 80% 90%"))
    layout = Layout(
        region=rng.choice((None, None, parse_region("0% 0% 90% 100%"))),
        max_pixels=rng.choice((None, None, 8000)),
    )
    tier = rng.choice(
        (Tier.BASIC, Tier.STANDARD, Tier.PROFESSIONAL, Tier.INDUSTRY, Tier.INDUSTRY, Tier.PREVIEW)
    )
    first = Options(tier=tier, layout=layout, keep_profile=rng.random() < 0.3)
    first = replace(first, hints=Hints(box=None if box is None else parse_box(box)))
    data = photo(rng)
    try:
        masked = engine.submit(data, first, keep_masks=True).result().masked
    except InvalidOptions:  # of a photo of one pixel, the box or the region has none
        return
    assert masked is not None
    stored = MaskedPhoto.from_bytes(masked.to_bytes())
    unseen = replace(stored, id=uuid.uuid4().hex)
    wanted = [options for options, _ in zip(refinements(rng, first, box), range(3), strict=False)]
    fresh = [result(engine, data, options, keep_masks=True) for options in wanted]
    # What was seen is known from the removal; then from no one, and then from the refinement before.
    for source, turn in ((stored, wanted), (unseen, wanted[::-1]), (unseen, wanted)):
        again = [result(engine, source, options) for options in turn]
        assert (again if turn is wanted else again[::-1]) == fresh


def test_refinements_at_once_do_not_change_each_other(engine: Engine) -> None:
    rng = random.Random(5)
    image, out = Image.new("RGB", (200, 150), BLUE), io.BytesIO()
    for left in (30, 120):
        ImageDraw.Draw(image).ellipse((left, 50, left + 40, 90), RED)
    image.save(out, "PNG")
    first = Options(tier=Tier.INDUSTRY)
    masked = engine.submit(out.getvalue(), first, keep_masks=True).result().masked
    assert masked is not None
    wanted = [options for options, _ in zip(refinements(rng, first, None), range(6), strict=False)]
    alone = [result(engine, masked, options) for options in wanted]
    running = [engine.submit(replace(masked, id="another"), options) for options in wanted * 2]
    for future, expected in zip(running, alone * 2, strict=True):
        error = future.exception()
        assert (str(error) if error else replace(future.result(), masked=None, seconds={})) == expected
