"""Encoding: the PNG writer compared with Pillow, and each format's colours and alpha."""

import io
import zlib

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageCms

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging import compositing, png
from cutout.inference.imaging.encode import MAX_SIDE, Format, encode, resolve
from cutout.inference.imaging.png import encode_png
from cutout.inference.imaging.types import Colour
from tests.fakes import open_picture

pytestmark = pytest.mark.slow

Pixels = npt.NDArray[np.uint8]

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(
    lambda size: st.sampled_from([size, (*size, 2), (*size, 3), (*size, 4)])
)


@given(
    pixels=SHAPES.flatmap(lambda shape: arrays.arrays(np.uint8, shape)),
    strip=st.sampled_from([1, 50, 1 << 20]),
)
@settings(deadline=None, max_examples=300)
def test_png_round_trips_for_any_size_channels_and_content(pixels: Pixels, strip: int) -> None:
    whole, png.STRIP_BYTES = png.STRIP_BYTES, strip  # Small strips, so that small images have several.
    try:
        data = encode_png(pixels)
    finally:
        png.STRIP_BYTES = whole
    np.testing.assert_array_equal(np.asarray(open_picture(data)), pixels)


def test_a_png_of_many_strips_round_trips_and_compresses() -> None:
    x = np.linspace(0, 200, 2500)
    smooth = (x[:700, None] + x).astype(np.uint8)
    picture = np.dstack([smooth, smooth // 2, smooth // 3, np.full_like(smooth, 255)])
    data = encode_png(picture)
    np.testing.assert_array_equal(np.asarray(open_picture(data)), picture)
    assert len(data) < picture.size / 20


def test_png_is_marked_as_srgb_and_its_checksums_hold() -> None:
    data = encode_png(np.zeros((3, 5, 4), np.uint8))
    kinds, place = [], len(png.SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        body = data[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(data[place + 8 + length : place + 12 + length])
        kinds.append(body[:4])
        place += 12 + length
    assert kinds == [b"IHDR", b"sRGB", b"IDAT", b"IEND"]
    assert b"sRGB" not in encode_png(np.zeros((3, 5), np.uint8))  # A mask has no colour space.


@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0), (4, 4, 5), (4,), (2, 2, 2, 2)])
def test_what_no_png_holds_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be written as PNG"):
        encode_png(np.zeros(shape, np.uint8))


def subject() -> tuple[Pixels, Pixels]:
    """Return a smooth red subject on a blue background, and the alpha of a soft-edged disc."""
    y, x = np.mgrid[-1:1:96j, -1:1:128j]
    radius = np.hypot(x, y)
    alpha = np.clip((0.7 - radius) * 2000 + 127, 0, 255).astype(np.uint8)
    rgb = np.empty((96, 128, 3), np.uint8)
    rgb[:] = (200, 40, 30)
    rgb[radius > 0.85] = (20, 40, 220)
    return rgb, alpha


PICTURES = [Format.PNG, Format.WEBP, Format.JPG, Format.AVIF]


@pytest.mark.parametrize("file_format", [Format.PNG, Format.WEBP, Format.AVIF])
def test_alpha_comes_back(file_format: Format) -> None:
    rgb, alpha = subject()
    picture = open_picture(
        encode(
            compositing.transparent(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy(), file_format, 90
        )
    )
    assert picture.mode == "RGBA"
    rgba = np.asarray(picture, np.int16)
    difference = np.abs(rgba[..., 3] - alpha)
    if file_format is Format.AVIF:  # AVIF's alpha is lossy too.
        assert difference.mean() < 0.5
        assert difference.max() <= 16
    else:
        assert not difference.any()
    solid = alpha == 255
    assert np.abs(rgba[solid, :3] - rgb[solid]).mean() < 3


@pytest.mark.parametrize("file_format", [Format.WEBP, Format.AVIF, Format.JPG])
def test_quality_is_a_setting(file_format: Format) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    files = [encode(noise, file_format, quality) for quality in (10, 50, 95)]
    assert len(files[0]) < len(files[1]) < len(files[2])
    errors = [np.abs(np.asarray(open_picture(data), np.int16) - noise).mean() for data in files]
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0), (0, 177, 64)])
def test_jpeg_on_a_background_has_no_fringe(colour: Colour) -> None:
    rgb, alpha = subject()
    picture = open_picture(
        encode(
            compositing.on_background(torch.from_numpy(rgb), torch.from_numpy(alpha), colour).numpy(),
            Format.JPG,
            95,
        )
    )
    weight = alpha[..., None] / 255
    ideal = rgb * weight + np.array(colour) * (1 - weight)
    error = np.abs(np.asarray(picture, float) - ideal)
    edge = (alpha > 0) & (alpha < 255)
    assert edge.sum() > 50
    assert error[edge].mean() < 6  # Neither the old background nor black shows through.
    assert error.mean() < 2


@pytest.mark.parametrize("file_format", [Format.WEBP, Format.AVIF, Format.JPG])
def test_colours_are_marked_as_srgb(file_format: Format) -> None:
    profile = open_picture(encode(np.zeros((8, 8, 3), np.uint8), file_format, 90)).info["icc_profile"]
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile)))


@pytest.mark.parametrize("file_format", PICTURES)
def test_a_mask_stays_grey_in_tone(file_format: Format) -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None], 16, axis=0)
    back = open_picture(encode(grey, file_format, 95)).convert("L")
    assert np.abs(np.asarray(back, np.int16) - grey).mean() < 2


def test_a_picture_too_long_for_a_format_is_refused_in_words() -> None:
    strip = np.zeros((1, 16_384, 3), np.uint8)
    with pytest.raises(
        InvalidOptions,
        match=r"webp allows at most 16,383 pixels per side, and the picture has 16384 × 1\. Choose another",
    ):
        encode(strip, Format.WEBP, 90)
    assert Image.open(io.BytesIO(encode(strip, Format.PNG, 90))).size == (16_384, 1)


def test_what_is_too_long_for_a_jpeg_becomes_a_png() -> None:
    longest = MAX_SIDE[Format.JPG]
    assert resolve(Format.AUTO, np.zeros((1, longest, 3), np.uint8)) is Format.JPG
    assert resolve(Format.AUTO, np.zeros((1, longest + 1, 3), np.uint8)) is Format.PNG
