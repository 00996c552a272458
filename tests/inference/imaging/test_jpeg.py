"""JPEGs that viewers display although they deviate from the standard, and truncated JPEGs."""

import numpy as np
import pytest
from PIL import Image

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge
from cutout.inference.imaging.decode import NOTE_JPEG, decode
from cutout.inference.imaging.file_parts import MAX_PARTS
from tests.inference.files import Pixels, encode, scene

KINDS = [(mode, progressive) for mode in ("RGB", "L", "CMYK") for progressive in (False, True)]


def noisy() -> Pixels:
    noise = np.random.default_rng(1).integers(-20, 20, (64, 80, 3))
    return (scene(80, 64) + noise).clip(0, 255).astype(np.uint8)


def jpeg(mode: str = "RGB", *, progressive: bool = False) -> bytes:
    return encode(Image.fromarray(noisy()).convert(mode), "JPEG", quality=90, progressive=progressive)


def before(data: bytes, marker: int, inserted: bytes) -> bytes:
    place = data.index(bytes([0xFF, marker]))
    return data[:place] + inserted + data[place:]


def odd_scan(data: bytes, parameters: bytes) -> bytes:
    place = data.rindex(b"\xff\xda")
    end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
    return data[: end - 3] + parameters + data[end:]


PLAIN = jpeg()
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0"  # A valid segment; the last byte of its body follows.
DEVIATIONS = {
    "scan of 0 to 0": odd_scan(PLAIN, b"\0\0\0"),
    "scan of 0 to 63, approximated": odd_scan(PLAIN, b"\0\x3f\x11"),
    "stray bytes ahead of a table": before(PLAIN, 0xDB, b"\1\2\3\4\5"),
    "stray bytes ahead of the frame": before(PLAIN, 0xC0, bytes(9)),
    "stray bytes ahead of the scan": before(PLAIN, 0xDA, b"\0\xff\0abc"),
    "stray bytes behind the start": PLAIN[:2] + b"\xff\0\0" + PLAIN[2:],
    "short Adobe segment": before(PLAIN, 0xDB, b"\xff\xee\0\x07Adobe"),
    "short Adobe segment that says it is longer": before(PLAIN, 0xDB, ADOBE[:-4]),
    "stray bytes ahead of the end": PLAIN[:-2] + bytes(300) + PLAIN[-2:],
    "both scan and stray bytes": before(odd_scan(PLAIN, b"\0\0\0"), 0xC4, b"\1\2\3"),
}


@pytest.mark.parametrize("name", DEVIATIONS)
def test_a_deviation_that_loses_nothing_is_taken_with_a_note(name: str) -> None:
    photo = decode(DEVIATIONS[name])
    np.testing.assert_array_equal(photo.rgb, decode(PLAIN).rgb)
    assert photo.notes == (NOTE_JPEG,)


@pytest.mark.parametrize(("mode", "progressive"), KINDS)
def test_a_missing_end_is_noted_where_all_scans_are_whole(mode: str, progressive: bool) -> None:
    data = jpeg(mode, progressive=progressive)
    photo = decode(data[:-2])
    np.testing.assert_array_equal(photo.rgb, decode(data).rgb)
    assert photo.notes == (NOTE_JPEG,)


@pytest.mark.parametrize("deviation", [None, b"\0\0\0"])
@pytest.mark.parametrize(("mode", "progressive"), KINDS)
def test_no_cut_off_jpeg_comes_out(mode: str, progressive: bool, deviation: bytes | None) -> None:
    data = jpeg(mode, progressive=progressive)
    if deviation is not None and not progressive:
        data = odd_scan(data, deviation)
    whole = decode(data).rgb
    for cut in range(3, len(data) - 2, 37):
        try:
            photo = decode(data[:cut])
        except InvalidPhoto:
            continue
        np.testing.assert_array_equal(
            photo.rgb, whole
        )  # Nothing is missing except the padding of the last byte.


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_an_end_put_behind_half_a_picture_does_not_make_it_whole(mode: str) -> None:
    data = jpeg(mode)
    start = data.rindex(b"\xff\xda") + 30
    for cut in range(start, len(data) - 8, 101):
        for half in (data[:cut], odd_scan(data, b"\0\0\0")[:cut]):
            with pytest.raises(InvalidPhoto):
                decode(half.rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("filling", [b"\0", b"\xff\0"])
def test_endless_stray_bytes_are_refused(filling: bytes) -> None:
    """Pillow would walk over 30 MB of them one by one."""
    with pytest.raises(PhotoTooLarge, match="parts"):
        decode(before(PLAIN, 0xDB, filling * (MAX_PARTS + 1)))
