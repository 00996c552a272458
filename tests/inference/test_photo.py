"""Bytes to pixels: what is taken, and how what is not taken is refused."""

import pytest

from inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from inference.photo import decode
from tests.fakes import photo_bytes

ORIENTATION_TAG = 0x0112


@pytest.mark.parametrize("data", [b"hello, I am text named .jpg", b"%PDF-1.7\n", bytes(100), b"\x89PNG"])
def test_what_is_no_picture_is_refused_as_such(data: bytes) -> None:
    with pytest.raises(UnsupportedFormat, match="Send a JPEG, PNG"):
        decode(data)


def test_an_empty_file_says_so() -> None:
    with pytest.raises(InvalidPhoto, match="empty"):
        decode(b"")


def test_the_limit_is_on_pixels_not_bytes() -> None:
    assert decode(photo_bytes(40, 30), max_pixels=1200).width == 40
    with pytest.raises(PhotoTooLarge, match=r"40 × 30 pixels; at most 0\.001199 megapixels"):
        decode(photo_bytes(40, 30), max_pixels=1199)
