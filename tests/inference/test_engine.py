"""The engine on a fake network: options, concurrency, one bad photo among good ones, limits."""

import io
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import CutoutError, InvalidOptions, InvalidPhoto, Overloaded
from cutout.inference.imaging.backgrounds import parse_colour
from cutout.inference.imaging.encode import Format
from cutout.inference.limits import Limits
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.fakes import (
    PATIENCE,
    FakeRunner,
    fake_engine,
    held_until,
    open_picture,
    photo_bytes,
    photo_with_disc,
    thin_picture,
)


def test_a_cutout_tells_what_made_it(engine: Engine) -> None:
    cutout = engine.remove(photo_bytes(40, 30), Options(tier=Tier.INDUSTRY))
    assert (cutout.width, cutout.height, cutout.tier) == (40, 30, Tier.INDUSTRY)
    assert (cutout.checkpoint, cutout.backend, cutout.substitute) == ("isnet-general", "fake", True)
    assert list(cutout.seconds) == ["decode", "wait", "network", "edges", "encode"]


def test_a_format_that_cannot_hold_the_picture_is_refused_before_the_network_runs() -> None:
    runs: list[None] = []
    engine = fake_engine(FakeRunner(before=lambda: runs.append(None)))
    for size in ((16_384, 200), (200, 16_384)):
        with pytest.raises(InvalidOptions, match=r"webp allows at most 16,383 .* another format"):
            engine.remove(thin_picture(*size), Options(format=Format.WEBP))
    assert runs == []
    assert engine.remove(thin_picture(16_384, 200), Options()).width == 16_384
    engine.close()


def disc_bytes() -> bytes:
    data = io.BytesIO()
    Image.fromarray(photo_with_disc(120, 160, 12)[0].rgb).save(data, "PNG")
    return data.getvalue()


@pytest.mark.parametrize(
    ("tier", "looks"), [(Tier.BASIC, 1), (Tier.STANDARD, 1), (Tier.PROFESSIONAL, 1), (Tier.INDUSTRY, 2)]
)
def test_only_industry_looks_twice(tier: Tier, looks: int) -> None:
    shown: list[Tier] = []
    engine = fake_engine(FakeRunner(before=lambda: shown.append(tier), radius=0.1))
    try:
        engine.remove(disc_bytes(), Options(tier=tier))
    finally:
        engine.close()
    assert len(shown) == looks


@pytest.mark.parametrize("tier", Tier)
def test_without_a_subject_the_picture_is_empty_and_says_so(tier: Tier) -> None:
    engine = fake_engine(FakeRunner(radius=-1))
    try:
        cutout = engine.remove(disc_bytes(), Options(tier=tier))
    finally:
        engine.close()
    assert cutout.no_foreground
    assert open_picture(cutout.data).getextrema() == ((0, 0),) * 4


def test_standard_cleans_the_colours_that_basic_leaves(engine: Engine) -> None:
    basic, standard = (
        np.asarray(open_picture(engine.remove(disc_bytes(), Options(tier=tier)).data))
        for tier in (Tier.BASIC, Tier.STANDARD)
    )
    np.testing.assert_array_equal(basic[..., 3], standard[..., 3])
    mixed = (basic[..., 3] > 0) & (basic[..., 3] < 255)
    assert (basic[mixed] != standard[mixed]).any()
    np.testing.assert_array_equal(basic[~mixed], standard[~mixed])


@pytest.mark.parametrize("file_format", [Format.PNG, Format.WEBP, Format.JPG, Format.AVIF])
def test_every_format_is_what_it_says(engine: Engine, file_format: Format) -> None:
    cutout = engine.remove(photo_bytes(64, 48), Options(format=file_format))
    image = Image.open(io.BytesIO(cutout.data))
    assert Image.MIME[image.format or ""] == file_format.media_type
    assert image.size == (64, 48)
    assert image.mode == ("RGBA" if file_format.has_alpha else "RGB")


def test_jpeg_is_laid_on_white_and_any_format_on_a_colour(engine: Engine) -> None:
    data = photo_bytes(64, 48)
    white = open_picture(engine.remove(data, Options(format=Format.JPG)).data)
    assert min(white.getpixel((0, 0))) > 250  # type: ignore[arg-type]
    green = open_picture(engine.remove(data, Options(background=(0, 128, 0))).data)
    assert green.mode == "RGB"
    assert green.getpixel((0, 0)) == (0, 128, 0)


def test_the_mask_alone(engine: Engine) -> None:
    data = photo_bytes(64, 48)
    mask = open_picture(engine.remove(data, Options(mask_only=True)).data)
    assert mask.mode == "L"
    alpha = open_picture(engine.remove(data).data).getchannel("A")
    np.testing.assert_array_equal(np.asarray(mask), np.asarray(alpha))


@pytest.mark.parametrize(
    ("text", "colour"),
    [("white", (255, 255, 255)), ("#0f0f", (0, 255, 0)), ("102030", (16, 32, 48)), ("rgb(1,2,3)", (1, 2, 3))],
)
def test_colours_are_read(text: str, colour: tuple[int, int, int]) -> None:
    assert parse_colour(text) == colour


def test_what_is_no_colour_is_refused() -> None:
    with pytest.raises(InvalidOptions, match="'reddish' is not a colour"):
        parse_colour("reddish")


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("#ff000080", (255, 0, 0, 128)),
        ("ff000080", (255, 0, 0, 128)),
        ("#0f08", (0, 255, 0, 136)),
        ("#00000000", (0, 0, 0, 0)),
        ("rgba(1,2,3,128)", (1, 2, 3, 128)),
        ("rgba(1, 2, 3, 0.5)", (1, 2, 3, 128)),
        ("RGBA(1,2,3,50%)", (1, 2, 3, 128)),
        ("rgba(1,2,3,1)", (1, 2, 3)),
        ("rgba(1,2,3,.0)", (1, 2, 3, 0)),
    ],
)
def test_a_colour_may_be_partly_transparent(text: str, colour: tuple[int, ...]) -> None:
    assert parse_colour(text) == colour


@pytest.mark.parametrize(
    "text",
    [
        "rgb(999,0,0)",
        "rgb(0,0,256)",
        "rgb(101%,0%,0%)",
        "hsl(0,200%,0%)",
        "hsv(0,100%,120%)",
        "rgba(999,0,0,255)",
    ],
)
def test_a_colour_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidOptions, match="is not a colour"):
        parse_colour(text)


def test_one_broken_photo_does_not_stop_the_others(engine: Engine) -> None:
    files = {"a": photo_bytes(seed=1), "broken": b"not a picture", "b": photo_bytes(seed=2)}

    def missing() -> bytes:
        raise FileNotFoundError(2, "No such file or directory")

    photos = [(name, lambda data=data: data) for name, data in files.items()]
    outcomes = dict(engine.remove_many([*photos, ("missing", missing)], Options()))
    assert isinstance(outcomes["a"], Cutout)
    assert isinstance(outcomes["b"], Cutout)
    assert isinstance(outcomes["broken"], InvalidPhoto)
    assert isinstance(outcomes["missing"], FileNotFoundError)


def test_the_next_photo_is_read_while_one_is_in_the_network() -> None:
    second_is_read = threading.Event()
    overlapped: list[bool] = []
    runner = FakeRunner(before=lambda: overlapped.append(second_is_read.wait(PATIENCE)))
    engine = fake_engine(runner)

    def read_second() -> bytes:
        second_is_read.set()
        return photo_bytes()

    outcomes = list(engine.remove_many([("first", photo_bytes), ("second", read_second)], Options()))
    engine.close()
    assert len(outcomes) == 2
    assert overlapped == [True, True]


def test_many_are_read_only_as_far_ahead_as_there_are_threads() -> None:
    asked = itertools.count()
    last = -1

    def photos() -> Iterator[tuple[int, object]]:
        nonlocal last
        for last in asked:
            yield last, photo_bytes

    engine = fake_engine(limits=Limits(threads=2))
    outcomes = engine.remove_many(photos(), Options())  # type: ignore[arg-type]
    for _ in range(5):
        next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]
    engine.close()
    assert last < 5 + 2 * 2


def test_a_network_that_fails_fails_its_photo_only() -> None:
    calls = itertools.count()

    def before() -> None:
        if next(calls) == 0:
            raise CutoutError("the network broke")

    engine = fake_engine(FakeRunner(before), Limits(threads=1))
    with pytest.raises(CutoutError, match="the network broke"):
        engine.remove(photo_bytes())
    assert engine.remove(photo_bytes()).width == 40
    engine.close()


def test_more_than_may_wait_is_overloaded_and_passes() -> None:
    go_on = threading.Event()
    engine = fake_engine(FakeRunner(before=lambda: held_until(go_on)), Limits(waiting=2))
    waiting = [engine.submit(photo_bytes(), Options()) for _ in range(2)]
    with pytest.raises(Overloaded) as caught:
        engine.submit(photo_bytes(), Options())
    assert caught.value.retry_after > 0
    go_on.set()
    assert [future.result(PATIENCE).width for future in waiting] == [40, 40]
    assert engine.remove(photo_bytes()).width == 40
    engine.close()


def test_a_photo_that_would_wait_for_most_of_its_time_is_refused_at_once() -> None:
    """Two photos of a slow network are half of the time that a photo has."""
    go_on = threading.Event()
    engine = fake_engine(FakeRunner(before=lambda: held_until(go_on)), Limits(seconds=PATIENCE))
    engine._turns._seconds_each = PATIENCE / 4 + 1  # type: ignore[attr-defined]  # without waiting for so long
    waiting = [engine.submit(photo_bytes(), Options()) for _ in range(2)]
    with pytest.raises(Overloaded) as caught:
        engine.submit(photo_bytes(), Options())
    assert caught.value.retry_after > PATIENCE / 2
    go_on.set()
    assert [future.result(PATIENCE).width for future in waiting] == [40, 40]
    engine.close()
