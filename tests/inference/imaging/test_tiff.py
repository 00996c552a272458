"""TIFF files of every kind, written by tifffile and compared with the original pixels."""

import io
import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from cutout.inference.imaging.decode import NOTE_FIRST_FRAME, decode
from tests.inference import files
from tests.inference.files import Pixels, scene

WIDTH, HEIGHT = 53, 37
ALPHA = np.clip(np.mgrid[0:HEIGHT, 0:WIDTH][1] * 6, 0, 255).astype(np.uint8)
CONTAINERS = [(order, big) for order in "<>" for big in (False, True)]
COMPRESSIONS = [
    (None, False),
    ("lzw", False),
    ("lzw", True),
    ("deflate", False),
    ("deflate", True),
    ("packbits", False),
    ("zstd", False),
]


def picture(channels: int) -> Pixels:
    """Return grey, grey with alpha, RGB or RGBA: uint8 [H,W,C]."""
    rgb = scene(WIDTH, HEIGHT)
    colours = rgb if channels >= 3 else rgb[..., :1]
    return np.dstack([colours, ALPHA]) if channels in (2, 4) else colours


def write(pixels: npt.NDArray[Any], *, planar: bool = False, **options: Any) -> bytes:
    """Encode [H,W,C] with tifffile."""
    channels = pixels.shape[2]
    if channels in (2, 4) and options.get("photometric") != "separated":
        options.setdefault("extrasamples", ["unassalpha"])
    if channels > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    stored = pixels[..., 0] if channels == 1 else np.moveaxis(pixels, -1, 0) if planar else pixels
    options.setdefault("photometric", "rgb" if channels >= 3 else "minisblack")
    if options.get("tile") is None:
        options.setdefault("rowsperstrip", 10)
    out = io.BytesIO()
    tifffile.imwrite(out, stored, metadata=None, **options)
    return out.getvalue()


def assert_shows(data: bytes, expected: Pixels, *, within: int = 0) -> None:
    """Check colours, and alpha if there is one."""
    photo = decode(data)
    channels = expected.shape[2]
    colours = expected[..., :3] if channels >= 3 else expected[..., :1].repeat(3, -1)
    assert np.abs(photo.rgb.astype(int) - colours).max() <= within
    if channels in (2, 4):
        np.testing.assert_array_equal(photo.alpha, expected[..., -1])
    else:
        assert photo.alpha is None
    assert photo.notes == ()


@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize(
    ("channels", "planar"), [(1, False), (2, False), (2, True), (3, False), (3, True), (4, False), (4, True)]
)
@pytest.mark.parametrize("bits", [8, 16])
def test_every_layout_shows_its_pixels(
    bits: int, channels: int, planar: bool, tile: tuple[int, int] | None
) -> None:
    expected = picture(channels)
    pixels = expected if bits == 8 else expected.astype(np.uint16) * 257
    for compression, predictor in COMPRESSIONS:
        for order, big in CONTAINERS:
            data = write(
                pixels,
                planar=planar,
                tile=tile,
                compression=compression,
                predictor=predictor or None,
                byteorder=order,
                bigtiff=big,
            )
            assert_shows(data, expected)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [2, 4])
def test_premultiplied_colours_are_divided_by_their_alpha(channels: int, bits: int, planar: bool) -> None:
    expected = picture(channels)
    highest = 2**bits - 1
    exact = expected.astype(np.float64) / 255
    exact[..., :-1] *= exact[..., -1:]
    stored = (exact * highest).round().astype(np.uint8 if bits == 8 else np.uint16)
    photo = decode(write(stored, planar=planar, extrasamples=["assocalpha"]))
    np.testing.assert_array_equal(photo.alpha, ALPHA)
    solid = ALPHA > 100  # With less alpha, eight bits are too coarse to compare colours.
    colours = expected[..., :-1] if channels == 4 else expected[..., :1].repeat(3, -1)
    assert np.abs(photo.rgb.astype(int) - colours)[solid].max() <= 2


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_inks(bits: int, planar: bool, compression: str | None) -> None:
    inks = np.dstack([scene(WIDTH, HEIGHT), scene(WIDTH, HEIGHT)[::-1, :, 0] // 3])
    stored = inks if bits == 8 else inks.astype(np.uint16) * 257
    photo = decode(write(stored, planar=planar, photometric="separated", compression=compression))
    expected = 255 * (1 - inks[..., :3] / 255) * (1 - inks[..., 3:] / 255)
    assert np.abs(photo.rgb - expected).max() <= 1
    assert photo.alpha is None


@pytest.mark.parametrize("compression", [None, "lzw"])
@pytest.mark.parametrize("scale", [257, 1])
def test_a_palette(scale: int, compression: str | None) -> None:
    indices = (np.mgrid[0:HEIGHT, 0:WIDTH].sum(0) % 256).astype(np.uint8)
    palette = np.random.default_rng(5).integers(0, 256, (3, 256))
    data = write(
        indices[..., None],
        photometric="palette",
        colormap=(palette * scale).astype(np.uint16),
        compression=compression,
    )
    np.testing.assert_array_equal(decode(data).rgb, palette.T[indices])


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("compression", [None, "packbits", "ccitt_t6"])
def test_black_and_white(compression: str | None, photometric: str) -> None:
    grey = scene(WIDTH, HEIGHT)[..., 0] > 128
    if compression == "ccitt_t6":  # tifffile cannot write this compression.
        data = files.encode(Image.fromarray(grey), "TIFF", compression="group4")
        expected = grey
    else:
        data = write(grey[..., None], photometric=photometric, compression=compression)
        expected = grey if photometric == "minisblack" else ~grey
    np.testing.assert_array_equal(decode(data).rgb[..., 0], np.where(expected, 255, 0))


@pytest.mark.parametrize(("channels", "tile"), [(1, None), (3, None), (3, (16, 32))])
def test_jpeg_within(channels: int, tile: tuple[int, int] | None) -> None:
    expected = picture(channels)
    data = write(expected, compression="jpeg", compressionargs={"level": 98}, tile=tile, rowsperstrip=16)
    shown = decode(data).rgb.astype(int)
    assert np.abs(shown - expected).mean() < 4


def test_further_channels_that_are_no_alpha_are_passed_over() -> None:
    pixels = np.dstack([scene(WIDTH, HEIGHT), ALPHA, ALPHA]).astype(np.uint16) * 257
    photo = decode(write(pixels, extrasamples=["unspecified", "unspecified"], photometric="rgb"))
    np.testing.assert_array_equal(photo.rgb, scene(WIDTH, HEIGHT))
    assert photo.alpha is None
    photo = decode(write(pixels, extrasamples=["unspecified", "unassalpha"], photometric="rgb"))
    np.testing.assert_array_equal(photo.alpha, ALPHA)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_planes_of_sixteen_bits_are_turned_too(orientation: int) -> None:
    stored = np.ascontiguousarray(files.STORED[orientation](scene()))
    data = write(stored.astype(np.uint16) * 257, planar=True, extratags=[(274, 3, 1, orientation, True)])
    assert_shows(data, scene())


def test_a_profile_is_followed() -> None:
    stored = scene().astype(np.uint16) * 257
    profile = files.ADOBE_RGB
    shown = decode(write(stored, planar=True, iccprofile=profile)).rgb
    np.testing.assert_array_equal(shown, decode(files.encode(scene(), "PNG", icc_profile=profile)).rgb)


def test_pages_are_noted() -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, np.stack([scene(), 255 - scene()]), photometric="rgb", metadata=None)
    photo = decode(out.getvalue())
    np.testing.assert_array_equal(photo.rgb, scene())
    assert photo.notes == (NOTE_FIRST_FRAME,)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (np.int8, "signed integers of 8 bits"),
        (np.int16, "signed integers of 16 bits"),
        (np.uint32, "32 bits per channel"),
        (np.int32, "signed integers of 32 bits"),
        (np.float16, "floating-point numbers of 16 bits"),
        (np.float32, "floating-point numbers of 32 bits"),
        (np.float64, "floating-point numbers of 64 bits"),
    ],
)
@pytest.mark.parametrize(("channels", "planar"), [(1, False), (3, False), (3, True), (4, False)])
def test_samples_without_a_certain_white_are_named(
    kind: type, says: str, channels: int, planar: bool
) -> None:
    with pytest.raises(UnsupportedFormat, match=f"{says}.* Save the picture as RGB with 8 or 16 bits"):
        decode(write(picture(channels).astype(kind), planar=planar))


def test_a_preview_is_not_taken_for_the_picture() -> None:
    with pytest.raises(UnsupportedFormat, match="preview"):
        decode(write(scene(), subfiletype=1))


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits"])
@pytest.mark.parametrize("planar", [False, True])
def test_a_cut_off_tiff_is_refused(planar: bool, compression: str | None) -> None:
    data = bytearray(write(scene().astype(np.uint16) * 257, planar=planar, compression=compression))
    for cut in range(8, len(data), 211):
        with pytest.raises(InvalidPhoto):
            decode(bytes(data[:cut]))


def test_strips_that_are_left_out_are_refused() -> None:
    data = write(scene(), rowsperstrip=8)
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    place = page.tags["StripByteCounts"].valueoffset
    with pytest.raises(InvalidPhoto, match="are missing"):
        decode(data[:place] + bytes(4) + data[place + 4 :])


BOMBS = {
    "pixels": {256: (4, [100_000]), 257: (4, [100_000])},
    "samples": {277: (3, [60_000])},
    "tiles": {322: (4, [2**20]), 323: (4, [2**20]), 324: (4, [8]), 325: (4, [100])},
    "strips": {256: (4, [1]), 257: (4, [5_000_000]), 278: (4, [1])},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_from_the_header(name: str) -> None:
    data = files.tiff(scene().astype(np.uint16), photometric=2, tags=BOMBS[name])
    decode(files.tiff(scene(), photometric=2))
    tracemalloc.start()
    with pytest.raises((InvalidPhoto, PhotoTooLarge)):
        decode(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50e6


def test_endless_tiles_are_refused() -> None:
    size = {
        256: (4, [5200]),
        257: (4, [5200]),
        322: (4, [16]),
        323: (4, [16]),
        324: (4, [8]),
        325: (4, [100]),
    }
    with pytest.raises(PhotoTooLarge, match=r"has 105625 strips or tiles; at most 100000"):
        decode(files.tiff(scene(), photometric=2, tags=size))


def test_tiles_far_larger_than_their_picture_are_refused() -> None:
    size = {322: (4, [2**16]), 323: (4, [2**15]), 324: (4, [8]), 325: (4, [100])}
    with pytest.raises(InvalidPhoto, match="tiles are far larger"):
        decode(files.tiff(scene(), photometric=2, tags=size))
