"""Decoded pixels are correct for every kind of image, compared with the test's own arithmetic."""

import dataclasses
import io
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from cutout.inference.errors import UnsupportedFormat
from cutout.inference.imaging.color_profile import SRGB_ICC
from cutout.inference.imaging.decode import NOTE_ANIMATION, NOTE_EXIF, NOTE_FIRST_FRAME, NOTE_PROFILE, decode
from cutout.inference.options import Options
from tests.fakes import fake_engine, open_picture
from tests.inference import files
from tests.inference.files import Floats, Pixels, encode, scene

GREY16 = scene()[..., 0].astype(np.uint16) * 200 + 77  # Tones that 8 bits cannot represent.
RGB16 = scene().astype(np.uint16) * 200 + 77


def furthest(actual: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    assert actual.shape == expected.shape
    return float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())


def as_rgb(grey: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return grey[..., None].repeat(3, axis=-1)


# --- Orientation ------------------------------------------------------------------------------------

EXACT: dict[str, dict[str, Any]] = {  # Options for writing each format as exactly as possible.
    "JPEG": {"quality": 100, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True, "exact": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "HEIC": {"quality": -1, "chroma": 444},
}
NEAR = {"JPEG": 3, "AVIF": 4, "HEIC": 2}  # Tolerance in levels; the other formats are exact.


@pytest.mark.parametrize("file_format", EXACT)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_back_upright(file_format: str, orientation: int) -> None:
    stored = np.ascontiguousarray(files.STORED[orientation](scene()))
    data = encode(stored, file_format, exif=files.exif(orientation), **EXACT[file_format])
    photo = decode(data)
    assert furthest(photo.rgb, scene()) <= NEAR.get(file_format, 0)
    assert photo.rgb.flags.c_contiguous
    assert photo.notes == ()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_once(compression: str, orientation: int) -> None:
    stored = np.ascontiguousarray(files.STORED[orientation](scene()))
    data = encode(stored, "TIFF", compression=compression, tiffinfo={files.ORIENTATION: orientation})
    np.testing.assert_array_equal(decode(data).rgb, scene())


def test_transparency_turns_with_the_colours() -> None:
    alpha = scene()[..., 2]
    stored = np.ascontiguousarray(np.rot90(np.dstack([scene(), alpha])))
    photo = decode(encode(stored, "PNG", exif=files.exif(6)))
    np.testing.assert_array_equal(photo.alpha, alpha)


# The warning is an error only in tests; in production Pillow only warns.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("block", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + b"\xff" * 90])
def test_damaged_exif_does_not_fail_the_photo(file_format: str, block: bytes) -> None:
    photo = decode(encode(scene(), file_format, exif=block, **EXACT[file_format]))
    assert furthest(photo.rgb, scene()) <= NEAR.get(file_format, 0)
    assert photo.notes in ((), (NOTE_EXIF,))


# --- Bits and channels ------------------------------------------------------------------------------


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_sixteen_bit_png(colour: str, interlaced: bool) -> None:
    samples, expected = (GREY16, as_rgb(GREY16)) if colour == "grey" else (RGB16, RGB16)
    assert furthest(decode(files.png(samples, interlaced=interlaced)).rgb, expected / 257) <= 1


@pytest.mark.parametrize("colour", ["grey", "rgb"])
def test_sixteen_bit_tiff(colour: str) -> None:
    samples, expected = (GREY16, as_rgb(GREY16)) if colour == "grey" else (RGB16, RGB16)
    data = files.tiff(samples, photometric=1 if colour == "grey" else 2)
    assert furthest(decode(data).rgb, expected / 257) <= 1


def test_sixteen_bit_tiff_with_white_as_zero() -> None:
    data = files.tiff(65535 - GREY16, photometric=0)
    assert furthest(decode(data).rgb, as_rgb(GREY16) / 257) <= 1


def test_twelve_bit_tiff() -> None:
    tones = (np.arange(64, dtype=np.uint32) * 65).reshape(8, 8)  # 0 … 4095
    first, second = tones.reshape(-1, 2).T
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=1).astype(np.uint8)
    size = {256: (4, [8]), 257: (4, [8]), 258: (3, [12]), 277: (3, [1]), 278: (4, [8])}
    data = files.tiff(packed.reshape(8, 12), photometric=1, tags=size)
    assert furthest(decode(data).rgb, as_rgb(tones) / 4095 * 255) <= 1


def test_sixteen_bit_grey_with_one_tone_transparent() -> None:
    key = int(GREY16[0, 0])
    data = files.png(GREY16, extra=files.png_chunk(b"tRNS", struct.pack(">H", key)))
    photo = decode(data)
    assert furthest(photo.rgb, as_rgb(GREY16) / 257) <= 1
    np.testing.assert_array_equal(photo.alpha, np.where(key == GREY16, 0, 255))


@pytest.mark.parametrize("file_format", ["JPEG", "TIFF"])
def test_cmyk(file_format: str) -> None:
    inks = np.dstack([scene(), scene()[::-1, :, 0] // 3])
    data = encode(Image.fromarray(inks, "CMYK"), file_format, **EXACT.get(file_format, {}))
    ink, black = inks[..., :3] / 255, inks[..., 3:] / 255
    expected = 255 * (1 - ink) * (1 - black)
    assert furthest(decode(data).rgb, expected) <= (1 if file_format == "TIFF" else 4)


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("mode", ["L", "1"])
def test_grey_and_black_and_white(file_format: str, mode: str) -> None:
    grey = scene()[..., 0] if mode == "L" else (scene()[..., 0] > 128).astype(np.uint8) * 255
    image = Image.fromarray(grey)
    photo = decode(encode(image.convert(mode), file_format))
    np.testing.assert_array_equal(photo.rgb, as_rgb(grey))
    assert photo.alpha is None


def test_grey_with_alpha() -> None:
    photo = decode(files.png(scene()[..., :2]))
    np.testing.assert_array_equal(photo.rgb, as_rgb(scene()[..., 0]))
    np.testing.assert_array_equal(photo.alpha, scene()[..., 1])


@pytest.mark.parametrize("file_format", ["PNG", "GIF"])
def test_a_palette_with_transparency(file_format: str) -> None:
    indices = (np.arange(12 * 9) % 5).astype(np.uint8).reshape(9, 12)
    palette = scene().reshape(-1, 3)[::300][:5]
    image = Image.fromarray(indices)
    image.putpalette(palette.tobytes())
    levels = np.array([255, 255, 255, 0, 255], np.uint8)
    transparency: int | bytes = 3
    if file_format == "PNG":  # In PNG, each palette colour may have its own alpha.
        levels = np.array([0, 40, 255, 99, 200], np.uint8)
        transparency = levels.tobytes()
    photo = decode(encode(image, file_format, transparency=transparency))
    np.testing.assert_array_equal(photo.alpha, levels[indices])
    seen = levels[indices] > 0
    np.testing.assert_array_equal(photo.rgb[seen], palette[indices][seen])


# --- Containers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("BMP", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", {"compression": "packbits"}),
        ("WEBP", {"lossless": True, "exact": True}),
    ],
)
def test_lossless_files_come_back_exactly(file_format: str, options: dict[str, Any]) -> None:
    np.testing.assert_array_equal(decode(encode(scene(), file_format, **options)).rgb, scene())


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("WEBP", {"quality": 90}), ("AVIF", {"quality": 90}), ("HEIC", {"quality": 90}), ("JPEG", {})],
)
def test_lossy_files_come_near(file_format: str, options: dict[str, Any]) -> None:
    photo = decode(encode(scene(), file_format, **options))
    assert photo.alpha is None
    assert np.abs(photo.rgb.astype(int) - scene()).mean() < 4


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_decoded_as_pillow_does_bit_for_bit(subsampling: str, progressive: bool) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    data = encode(noise, "JPEG", subsampling=subsampling, progressive=progressive)
    np.testing.assert_array_equal(decode(data).rgb, np.asarray(open_picture(data)))


@pytest.mark.parametrize("brand", [b"mif1", b"msf1"])
@pytest.mark.parametrize("file_format", ["AVIF", "HEIC"])
def test_the_common_brand_of_the_container_hides_neither_format(file_format: str, brand: bytes) -> None:
    data = encode(scene(), file_format, **EXACT[file_format])
    assert furthest(decode(data[:8] + brand + data[12:]).rgb, scene()) <= NEAR[file_format]


@pytest.mark.parametrize("file_format", ["PNG", "WEBP", "TIFF", "AVIF", "HEIC"])
def test_alpha_is_returned(file_format: str) -> None:
    alpha = scene()[..., 1]
    options = EXACT.get(file_format, {})
    photo = decode(encode(np.dstack([scene(), alpha]), file_format, **options))
    assert photo.alpha is not None
    assert furthest(photo.alpha, alpha) <= NEAR.get(file_format, 0)
    assert furthest(photo.rgb, scene()) <= NEAR.get(file_format, 0)


def test_the_photos_own_alpha_is_multiplied_into_the_mask() -> None:
    alpha = scene(90, 70)[..., 0]
    engine = fake_engine()
    try:
        mask_only = dataclasses.replace(Options(), mask_only=True)
        mask = open_picture(engine.remove(encode(scene(90, 70), "PNG"), mask_only).data)
        own = np.dstack([scene(90, 70), alpha])
        result = open_picture(engine.remove(encode(own, "PNG"), Options()).data)
    finally:
        engine.close()
    assert result.mode == "RGBA"
    expected = np.round(np.asarray(mask, np.float64) * alpha / 255)
    assert expected.max() > 100
    assert furthest(np.asarray(result)[..., 3], expected) <= 1


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {})],
)
def test_of_several_pictures_the_first_is_taken_with_a_note(
    file_format: str, options: dict[str, Any]
) -> None:
    # Few enough colours for a GIF to store exactly.
    first = Image.fromarray(scene()).quantize(64).convert("RGB")
    other = Image.fromarray(255 - scene())
    photo = decode(encode(first, file_format, save_all=True, append_images=[other], **options))
    np.testing.assert_array_equal(photo.rgb, np.asarray(first))
    assert photo.notes == (NOTE_FIRST_FRAME if file_format == "TIFF" else NOTE_ANIMATION,)


def test_a_second_picture_behind_a_phones_jpeg_needs_no_note() -> None:
    image = Image.fromarray(scene())
    data = encode(image, "MPO", save_all=True, append_images=[Image.fromarray(255 - scene())], quality=95)
    assert Image.open(io.BytesIO(data)).format == "MPO"
    photo = decode(data)
    assert photo.notes == ()
    assert np.abs(photo.rgb.astype(int) - scene()).mean() < 4


# --- Colour -----------------------------------------------------------------------------------------

SRGB_CURVE = [round(65535 * float(tone)) for tone in files.srgb_to_linear(np.linspace(0, 1, 1024))]
XYZ_TO_SRGB = np.linalg.inv(files.colorants(files.SRGB_PRIMARIES))
WIDE: dict[str, tuple[bytes, Any, Callable[[Floats], Floats]]] = {
    "adobe": (files.ADOBE_RGB, files.ADOBE_PRIMARIES, lambda values: values ** (0x0233 / 256)),
    "display-p3": (
        files.icc_profile(SRGB_CURVE, files.colorants(files.DISPLAY_P3_PRIMARIES)),
        files.DISPLAY_P3_PRIMARIES,
        files.srgb_to_linear,
    ),
}


def to_srgb(linear: Floats, primaries: Any) -> Floats:
    """Convert linear RGB of other primaries to sRGB, 0…255."""
    xyz = linear @ files.colorants(primaries).T
    return 255 * files.linear_to_srgb(xyz @ XYZ_TO_SRGB.T)


def soft() -> Pixels:
    """Return colours that stay inside sRGB in every tested colour space."""
    return (scene() // 2 + 60).astype(np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "TIFF", "HEIC"])
@pytest.mark.parametrize("space", WIDE)
def test_a_wide_gamut_becomes_srgb(file_format: str, space: str) -> None:
    profile, primaries, curve = WIDE[space]
    options = EXACT.get(file_format, {})
    plain = decode(encode(soft(), file_format, **options)).rgb  # As decoded without the profile.
    photo = decode(encode(soft(), file_format, icc_profile=profile, **options))
    expected = to_srgb(curve(plain / 255), primaries)
    assert furthest(photo.rgb, expected) <= 2
    assert furthest(photo.rgb, plain) > 5
    assert photo.notes == ()


def test_a_colour_outside_srgb_is_clipped() -> None:
    profile, primaries, curve = WIDE["adobe"]
    green = np.full((4, 5, 3), (0, 255, 0), np.uint8)
    expected = to_srgb(curve(green / 255.0), primaries)
    assert furthest(decode(encode(green, "PNG", icc_profile=profile)).rgb, expected) <= 2


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize(
    "profile", [SRGB_ICC, files.icc_profile(SRGB_CURVE, files.colorants(files.SRGB_PRIMARIES))]
)
def test_an_srgb_profile_leaves_every_pixel_as_it_is(file_format: str, profile: bytes) -> None:
    noise = np.random.default_rng(4).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    data = encode(noise, file_format, icc_profile=profile, **EXACT[file_format])
    photo = decode(data)
    np.testing.assert_array_equal(photo.rgb, np.asarray(open_picture(data)))
    assert photo.notes == ()


def test_a_profile_that_is_nearly_srgb_leaves_every_pixel_as_it_is() -> None:
    # A conversion would change some colours by a level.
    colorants = files.colorants(files.SRGB_PRIMARIES) * 0.995
    data = encode(scene(), "PNG", icc_profile=files.icc_profile(SRGB_CURVE, colorants))
    np.testing.assert_array_equal(decode(data).rgb, scene())


def test_a_profile_that_differs_from_srgb_in_the_shadows_only_is_followed() -> None:
    profile = files.icc_profile([0x0233], files.colorants(files.SRGB_PRIMARIES))
    shadows = scene() // 8
    expected = 255 * files.linear_to_srgb((shadows / 255) ** (0x0233 / 256))
    assert furthest(expected, shadows) > 4
    assert furthest(decode(encode(shadows, "PNG", icc_profile=profile)).rgb, expected) <= 2


def test_a_grey_profile_is_followed() -> None:
    data = encode(scene()[..., 0], "PNG", icc_profile=files.icc_profile([0x0100], space=b"GRAY"))
    expected = 255 * files.linear_to_srgb(scene()[..., 0] / 255)  # The gamma is 1.
    assert furthest(decode(data).rgb, as_rgb(expected)) <= 2


GREY_PROFILE = files.icc_profile([0x0233], space=b"GRAY")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("profile", [b"no profile at all" * 20, files.ADOBE_RGB[:200], GREY_PROFILE])
def test_a_profile_that_cannot_be_used_leaves_a_note(file_format: str, profile: bytes) -> None:
    data = encode(scene(), file_format, icc_profile=profile, **EXACT.get(file_format, {}))
    photo = decode(data)
    assert photo.notes == (NOTE_PROFILE,)
    np.testing.assert_array_equal(photo.rgb, np.asarray(open_picture(data)))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_an_rgb_profile_fits_no_other_mode(mode: str) -> None:
    image = Image.fromarray(scene()).convert(mode)
    photo = decode(encode(image, "TIFF", icc_profile=files.ADOBE_RGB))
    assert photo.notes == (NOTE_PROFILE,)
    np.testing.assert_array_equal(photo.rgb, decode(encode(image, "TIFF")).rgb)


# The warning is an error only in tests; in production Pillow only warns.
@pytest.mark.filterwarnings("ignore")
def test_a_profile_of_numbers_in_a_tiff_leaves_a_note() -> None:
    photo = decode(files.tiff(scene(), photometric=2, tags={34675: (3, [7, 8, 9])}))
    assert photo.notes == (NOTE_PROFILE,)
    np.testing.assert_array_equal(photo.rgb, scene())


def test_a_lab_tiff_becomes_srgb() -> None:
    y, x = np.mgrid[0:24, 0:32]
    lab = np.dstack([90 + 3 * y, x - 14, 10 - y]).astype(np.int16)  # L in 0…255; a and b are signed.
    data = files.tiff((lab & 255).astype(np.uint8), photometric=8)
    light = (lab[..., 0] / 2.55 + 16) / 116
    roots = np.dstack([light + lab[..., 1] / 500, light, light - lab[..., 2] / 200])
    xyz = np.where(roots > 6 / 29, roots**3, 3 * (6 / 29) ** 2 * (roots - 4 / 29)) * files.D50
    expected = 255 * files.linear_to_srgb(xyz @ XYZ_TO_SRGB.T)
    assert furthest(decode(data).rgb, expected) <= 2


def test_a_number_of_bits_that_is_not_read_is_said() -> None:
    with pytest.raises(UnsupportedFormat, match="floating-point numbers of 32 bits"):
        decode(encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"))
