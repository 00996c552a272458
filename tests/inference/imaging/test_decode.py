"""Decoding: accepted files, and the errors for others."""

import pytest

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from cutout.inference.imaging.decode import decode
from cutout.inference.limits import SizeLimits
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
    assert decode(photo_bytes(40, 30), SizeLimits(pixels=1200)).width == 40
    with pytest.raises(PhotoTooLarge, match=r"40 × 30 pixels; at most 0\.001199 megapixels"):
        decode(photo_bytes(40, 30), SizeLimits(pixels=1199))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_what_is_too_long_or_too_thin_is_refused_from_its_header(
    file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutout.inference.imaging.decode.to_photo", lambda *_: pytest.fail("it was decoded"))
    for size in ((3000, 20), (20, 3000)):
        with pytest.raises(
            PhotoTooLarge, match=r"pixels; it may be at most 100 times as long as wide .*CUTOUT_MAX_RATIO"
        ):
            decode(photo_bytes(*size, file_format))
        with pytest.raises(PhotoTooLarge, match=r"at most 2,999 per side are allowed \(CUTOUT_MAX_SIDE\)"):
            decode(photo_bytes(*size, file_format), SizeLimits(side=2999, ratio=1000))


def test_a_panorama_is_taken() -> None:
    assert decode(photo_bytes(3000, 30)).width == 3000
