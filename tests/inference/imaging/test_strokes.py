"""Pictures of strokes: every mode and size, and files that are none."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from PIL import Image

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging import strokes
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Layout
from cutout.inference.imaging.hints import Hints
from cutout.inference.imaging.strokes import Marked, Strokes, check_apart
from cutout.inference.limits import SizeLimits
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.fakes import fake_engine, photo_bytes

STROKE = np.zeros((6, 9), np.bool_)
STROKE[2:5, 3:8] = True
SIZES = SizeLimits(pixels=1_000_000)


def encoded(image: Image.Image, file_format: str = "PNG") -> Picture:
    out = io.BytesIO()
    image.save(out, file_format)
    return Picture.of(out.getvalue())


def grey() -> Image.Image:
    return Image.fromarray(STROKE.astype(np.uint8) * 255)


def with_alpha(light: int, alpha: Marked | int) -> Image.Image:
    rgba = np.full((*STROKE.shape, 4), light, np.uint8)
    rgba[..., 3] = alpha * 255 if isinstance(alpha, np.ndarray) else alpha
    return Image.fromarray(rgba)


@pytest.mark.parametrize(
    "image",
    [
        grey(),
        grey().convert("1"),
        grey().convert("RGB"),
        grey().convert("P"),
        Image.fromarray(STROKE.astype(np.uint16) * 40000),
        with_alpha(255, STROKE),
        with_alpha(200, STROKE),
    ],
    ids=["grey", "1 bit", "RGB", "palette", "16 bit", "on nothing", "light grey on nothing"],
)
def test_white_is_marked_in_every_mode(image: Image.Image) -> None:
    np.testing.assert_array_equal(strokes.read(encoded(image), "strokes").marked, STROKE)


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (5, 5)),
        Image.new("L", (5, 5), 120),
        with_alpha(255, 120),
        with_alpha(0, 255),
        Image.new("RGB", (5, 5), "red"),
    ],
    ids=["black", "dark grey", "hardly visible", "black on nothing", "red"],
)
def test_a_picture_without_white_has_no_strokes(image: Image.Image) -> None:
    with pytest.raises(InvalidOptions, match="has no white strokes"):
        strokes.read(encoded(image), "strokes")


def test_a_large_picture_keeps_its_thin_lines() -> None:
    wide = np.zeros((90, 9000), np.uint8)
    wide[:, 4001] = 255
    found = strokes.read(encoded(Image.fromarray(wide)), "strokes")
    assert found.marked.shape == (90, strokes.MOST_PIXELS)
    assert (found.shares(4, 30, 4, 30) > 0).sum(1).tolist() == [1, 1, 1, 1]
    assert found.shares(4, 30, 4, 30).argmax(1).tolist() == [13, 13, 13, 13]


def test_shares_are_those_of_the_area() -> None:
    marked = np.random.default_rng(0).random((40, 60)) < 0.4
    found = Strokes(marked).shares(10, 12, 10, 12)
    np.testing.assert_allclose(found, marked.reshape(10, 4, 12, 5).mean((1, 3)))
    part = Strokes(marked).seen(0.5, 0.25, 1, 0.75).shares(5, 6, 5, 6)
    np.testing.assert_allclose(part, found[:, 6:].repeat(2, 0)[5:15].reshape(5, 2, 6).mean(1), atol=0.5)
    one = Strokes(np.ones((1, 1), np.bool_))
    assert one.shares(3, 4, 2.5, 4).min() == 1


def test_strokes_that_share_a_border_do_not_contradict_each_other() -> None:
    left = np.zeros((40, 40), np.bool_)
    left[10:20, :20] = True
    right = np.zeros((80, 80), np.bool_)
    right[20:40, 39:] = True  # a pixel of the smaller picture, antialiased
    check_apart(Strokes(left), Strokes(right))
    right[20:40, 30:] = True
    with pytest.raises(InvalidOptions, match="both to keep and to drop"):
        check_apart(Strokes(left), Strokes(right))


def bomb(width: int, height: int) -> bytes:
    """Return a PNG of a few bytes that states this size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(99)))
        + chunk(b"IEND", b"")
    )


WHOLE = encoded(grey()).data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty, or no longer exists"),
        (b"<svg/>", "is not a picture"),
        (WHOLE[: len(WHOLE) // 2], "truncated or damaged"),
        (bomb(60_000, 60_000), "at most"),
        (bomb(900, 900), "truncated or damaged"),
    ],
    ids=["empty", "SVG", "truncated", "bomb", "too little data"],
)
def test_what_is_no_picture_is_named(data: bytes, says: str) -> None:
    with pytest.raises(InvalidOptions, match=f"^The picture of the strokes .*{says}"):
        strokes.read(Picture.of(data), strokes.KEEP, SIZES)


MODES = st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])


@st.composite
def masks(draw: st.DrawFn) -> bytes:
    """Draw files: pictures of every mode and size, cut off or not, and bytes that are none."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=40))
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    light = np.zeros((height, width), np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        light[top : top + draw(st.integers(1, 40)), left : left + draw(st.integers(1, 40))] = draw(
            st.sampled_from([100, 140, 255])
        )
    mode = draw(MODES)
    image = (
        Image.fromarray(light.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(light).convert(mode)
    )
    data = encoded(image, draw(st.sampled_from(["PNG", "TIFF"]))).data
    return data[: draw(st.integers(0, len(data)))] if draw(st.integers(0, 9)) == 0 else data


@settings(max_examples=25, deadline=None)
@given(
    keep=st.one_of(st.none(), masks()),
    drop=st.one_of(st.none(), masks()),
    fill=st.booleans(),
    least=st.sampled_from([0.0, 0.3, 1.0]),
    most=st.sampled_from([None, None, 30, 1]),
)
def test_random_strokes_are_refused_or_give_a_picture(
    keep: bytes | None, drop: bytes | None, fill: bool, least: float, most: int | None
) -> None:
    layout = Layout(max_pixels=most)
    hints = Hints(
        keep_mask=None if keep is None else Picture.of(keep),
        drop_mask=None if drop is None else Picture.of(drop),
        fill_holes=fill,
        min_coverage=least,
    )
    with fake_engine() as engine:
        try:
            hints.check()
            cutout = engine.remove(PHOTO, Options(Tier.INDUSTRY, hints=hints, layout=layout))
        except InvalidOptions as error:
            event("refused")
            said = str(error)
        else:
            event("a picture")
            said = f"{cutout.width} × {cutout.height} pixels"
    assert said in ("70 × 50 pixels", "1 × 1 pixels", "6 × 4 pixels") or 20 < len(said) < 300


PHOTO = photo_bytes(70, 50)
