"""Animations, read and written: every frame as a viewer shows it, for as long, and limits before anything is decoded."""

import struct
from fractions import Fraction
from zlib import crc32

import numpy as np
import pytest
from PIL import Image

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge
from cutout.inference.imaging import decode
from cutout.inference.imaging.animation import Animation, read_animation
from cutout.inference.imaging.animation_files import Part, Style, box_to_write, encode_part, join
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.file_parts import count_gif_frames
from cutout.inference.limits import SizeLimits
from tests.animations import Pixels, animation_of, durations_of, frames_of, moving_disc, opacity_of
from tests.fakes import photo_bytes
from tests.inference.files import png_chunk

MOVING = [Format.PNG, Format.WEBP, Format.GIF]
TIMES = [Fraction(40), Fraction(0), Fraction(10), Fraction(2000)]


def cut_outs(count: int = 4) -> list[Pixels]:
    """Return frames with transparency, the third of which is like the second."""
    rows, columns = np.mgrid[:41, :57]
    frames = []
    for index in range(count):
        across = 12 + 5 * (1 if index == 2 else index)
        alpha = np.clip((10 - np.hypot(columns - across, rows - 20)) * 60, 0, 255).astype(np.uint8)
        rgb = np.stack([columns * 4, rows * 5, np.full_like(rows, 90)], -1).astype(np.uint8)
        frames.append(np.dstack([rgb * (alpha > 0)[..., None], alpha]))
    return frames


def written(frames: list[Pixels], style: Style, times: list[Fraction]) -> bytes:
    before, parts = None, list[Part]()
    for pixels in frames:
        parts.append(encode_part(pixels, box_to_write(before, pixels, style.file_format), style))
        before = pixels
    height, width = frames[0].shape[:2]
    return join(parts, times, width, height, style)


@pytest.mark.parametrize("plays", [0, 1, 3])
@pytest.mark.parametrize("file_format", MOVING)
def test_what_is_written_is_read_again(file_format: Format, plays: int) -> None:
    frames = cut_outs()
    data = written(frames, Style(file_format, 95, plays), TIMES)
    assert read_animation(data) == Animation(4, 57, 41, plays)
    assert durations_of(data) == TIMES
    for shown, frame in zip(frames_of(data), frames, strict=True):
        alpha = frame[..., 3] if file_format is not Format.GIF else np.where(frame[..., 3] >= 128, 255, 0)
        np.testing.assert_array_equal(opacity_of(shown), alpha)
        solid = frame[..., 3] == 255
        error = np.abs(shown.photo.rgb.astype(int) - frame[..., :3])[solid]
        assert error.max() == 0 if file_format is Format.PNG else error.mean() < 3


@pytest.mark.parametrize("channels", [None, 3])
@pytest.mark.parametrize("file_format", MOVING)
def test_opaque_frames_and_masks_are_written_too(file_format: Format, channels: int | None) -> None:
    frames = [np.ascontiguousarray(one[..., 3] if channels is None else one[..., :3]) for one in cut_outs()]
    data = written(frames, Style(file_format, 95), TIMES)
    for shown, frame in zip(frames_of(data), frames, strict=True):
        grey = frame[..., None] if channels is None else frame
        assert np.abs(shown.photo.rgb.astype(int) - grey).mean() < 3
        assert (opacity_of(shown) == 255).all()


def test_only_what_changes_is_written() -> None:
    frames = [np.ascontiguousarray(one[..., :3]) for one in cut_outs()]
    same, all_of_it = (
        written(frames[:1] * 50, Style(Format.PNG, 90), [Fraction(9)] * 50),
        len(written(frames[:1] * 2, Style(Format.PNG, 90), [Fraction(9)] * 2)),
    )
    assert len(same) < 50 * 200 + all_of_it
    assert box_to_write(frames[0], frames[1], Format.WEBP).left % 2 == 0


def test_roundings_of_durations_do_not_add_up() -> None:
    times = [Fraction(100, 3)] * 30
    for file_format, unit in ((Format.WEBP, 1), (Format.GIF, 10)):
        told = durations_of(written(cut_outs(2) * 15, Style(file_format, 80), times))
        assert sum(told) == 1000
        assert max(abs(one - times[0]) for one in told) <= unit
    exact = durations_of(written(cut_outs(2) * 15, Style(Format.PNG, 80), times))
    assert sum(exact) == pytest.approx(1000, abs=0.01)


def test_a_gif_says_how_often_it_is_repeated_and_the_others_how_often_it_is_shown() -> None:
    frames = moving_disc(2)
    for options, plays in (({"loop": 0}, 0), ({"loop": 4}, 5), ({"loop": None}, 1)):
        found = read_animation(animation_of(frames, "GIF", **options))
        assert found is not None
        assert found.plays == plays


@pytest.mark.parametrize(("disposal", "stays"), [(0, True), (1, False)])
def test_frames_are_laid_on_what_the_one_before_leaves(disposal: int, stays: bool) -> None:
    """Two small squares on an empty canvas; the first one stays, or is cleared away."""
    out = animation_of([square(2), square(20)], "PNG", disposal=[disposal, 0], blend=[0, 1])
    first, second = (opacity_of(frame) for frame in frames_of(out))
    assert (first[4, 4], first[4, 22]) == (255, 0)
    assert (second[4, 4], second[4, 22]) == (255 if stays else 0, 255)


def square(left: int) -> Pixels:
    pixels = np.zeros((12, 40, 4), np.uint8)
    pixels[2:8, left : left + 6] = (200, 30, 30, 255)
    return pixels


def test_the_still_picture_before_an_animation_is_no_frame_of_it() -> None:
    frames = moving_disc(3)
    still = np.zeros_like(frames[0])
    data = animation_of([still, *frames], "PNG", default_image=True)
    found = frames_of(data)
    assert len(found) == 3
    for frame, drawn in zip(found, frames, strict=True):
        np.testing.assert_array_equal(frame.photo.rgb, drawn)


@pytest.mark.parametrize(
    "data", [photo_bytes(), photo_bytes(file_format="GIF"), photo_bytes(file_format="JPEG")]
)
def test_a_still_picture_is_no_animation(data: bytes) -> None:
    assert read_animation(data) is None
    assert read_animation(animation_of(moving_disc(1), "PNG")) is None


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP"])
def test_limits_hold_before_anything_is_decoded(file_format: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = animation_of(moving_disc(5), file_format)
    for name in ("to_photo", "decode_jpeg"):
        monkeypatch.setattr(decode, name, lambda *_, **__: pytest.fail("it was decoded"))
    assert read_animation(data, SizeLimits(frames=5, animation_pixels=5 * 64 * 48)) is not None
    with pytest.raises(PhotoTooLarge, match=r"more than 4 frames.*CUTOUT_MAX_FRAMES"):
        read_animation(data, SizeLimits(frames=4))
    with pytest.raises(PhotoTooLarge, match=r"5 frames of 64 × 48 pixels.*CUTOUT_MAX_ANIMATION_MEGAPIXELS"):
        read_animation(data, SizeLimits(animation_pixels=5 * 64 * 48 - 1))


def test_an_orientation_behind_the_last_frame_turns_none_of_them() -> None:
    data = animation_of(moving_disc(3), "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    end = len(data) - 12
    late = data[:end] + png_chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + data[end:]
    for shown, frame in zip(frames_of(late), frames_of(data), strict=True):
        np.testing.assert_array_equal(shown.photo.rgb, frame.photo.rgb)
    turned = frames_of(animation_of(moving_disc(3), "PNG", exif=exif.tobytes()))
    assert {frame.photo.rgb.shape for frame in turned} == {(64, 48, 3)}


def test_frames_beyond_the_limit_are_not_counted() -> None:
    head = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + bytes(6)
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    data = head + frame * 5000

    class Counted(bytes):
        looks = 0

        def __getitem__(self, key):  # type: ignore[no-untyped-def]
            Counted.looks += 1
            return super().__getitem__(key)

    assert count_gif_frames(Counted(data), 200, 1, 1) == 201
    assert Counted.looks < 5000


def test_a_later_frame_that_is_larger_than_the_picture_is_an_error_of_the_file() -> None:
    data = bytearray(animation_of(noisy(3), "GIF"))
    place = data.rindex(b"\x2c\0\0\0\0" + struct.pack("<HH", 32, 24)) + 5
    data[place : place + 2] = struct.pack("<H", 65_535)
    with pytest.raises(InvalidPhoto, match="beyond the picture"):
        read_animation(bytes(data))


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_animation_is_an_error_of_the_file(file_format: str, share: float) -> None:
    data = animation_of(noisy(6), file_format)
    with pytest.raises(InvalidPhoto):
        frames_of(data[: int(share * len(data))])


def noisy(count: int) -> list[Pixels]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 255, (24, 32, 3), dtype=np.uint8) for _ in range(count)]


def test_altered_pixels_of_a_later_frame_are_an_error_of_the_file() -> None:
    data = bytearray(animation_of(noisy(3), "PNG"))
    data[data.rindex(b"fdAT") + 20] ^= 1
    with pytest.raises(InvalidPhoto, match="checksum"):
        read_animation(bytes(data))


def test_frames_that_were_announced_and_are_missing_are_an_error_of_the_file() -> None:
    data = animation_of(noisy(3), "PNG")
    place = data.index(b"acTL")
    chunk = data[place : place + 4] + struct.pack(">I", 4) + data[place + 8 : place + 12]
    announced = data[:place] + chunk + struct.pack(">I", crc32(chunk)) + data[place + 16 :]
    with pytest.raises(InvalidPhoto, match="3 of 4 frames"):
        read_animation(announced)
