"""Bytes to pixels: what is taken, and how what is not taken is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from inference.photo import decode
from tests.fakes import photo_bytes

ORIENTATION_TAG = 0x0112


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_come_back_exactly(file_format: str) -> None:
    data = photo_bytes(31, 17, file_format)
    picture = decode(data)
    assert (picture.width, picture.height, picture.alpha) == (31, 17, None)
    np.testing.assert_array_equal(picture.rgb, np.asarray(Image.open(io.BytesIO(data))))


def test_a_phone_photo_on_its_side_is_turned_upright() -> None:
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:, :10] = (250, 10, 10)  # red on the left
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = 6  # stored turned: show it turned 90° clockwise
    out = io.BytesIO()
    Image.fromarray(np.rot90(upright)).save(out, "PNG", exif=exif)
    np.testing.assert_array_equal(decode(out.getvalue()).rgb, upright)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_kept(mode: str) -> None:
    rgba = np.zeros((4, 6, 4), np.uint8)
    rgba[:, :3] = (120, 120, 120, 255)
    image = Image.fromarray(rgba)
    out = io.BytesIO()
    if mode == "P":
        image = image.quantize(8)
        image.save(out, "PNG")
    else:
        image.convert(mode).save(out, "PNG")
    alpha = decode(out.getvalue()).alpha
    assert alpha is not None
    np.testing.assert_array_equal(alpha, rgba[..., 3])


def test_sixteen_bit_grey_keeps_its_tones() -> None:
    grey = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    out = io.BytesIO()
    Image.fromarray(grey).save(out, "PNG")
    np.testing.assert_array_equal(decode(out.getvalue()).rgb[..., 0], np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("data", [b"hello, I am text named .jpg", b"%PDF-1.7\n", bytes(100), b"\x89PNG"])
def test_what_is_no_picture_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="Send a JPEG, PNG"):
        decode(data)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(InvalidPhoto, match="empty"):
        decode(b"")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP"])
@pytest.mark.parametrize("tenths", range(1, 10))
def test_a_cut_off_file_is_an_invalid_photo(file_format: str, tenths: int) -> None:
    data = photo_bytes(64, 48, file_format)
    with pytest.raises(InvalidPhoto):
        decode(data[: len(data) * tenths // 10])


def test_a_bomb_is_refused_from_its_header() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))
    with pytest.raises(PhotoTooLarge, match="at most 50 megapixels"):
        decode(bomb)


def test_the_limit_is_on_pixels_not_bytes() -> None:
    assert decode(photo_bytes(40, 30), max_pixels=1200).width == 40
    with pytest.raises(PhotoTooLarge, match=r"40 × 30 pixels; at most 0\.001199 megapixels"):
        decode(photo_bytes(40, 30), max_pixels=1199)
