"""Image files written by hand or with Pillow: all formats, with every oddity that the tests need."""

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
import tifffile
from PIL import Image

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ORIENTATION = 0x0112
MAKE = 0x010F

# How an upright image is stored for each EXIF orientation, as a camera held that way would write it (EXIF 2.3,
# 4.6.4.A: which visual side row 0 and column 0 are).
STORED = {
    1: lambda upright: upright,
    2: lambda upright: np.fliplr(upright),
    3: lambda upright: np.rot90(upright, 2),
    4: lambda upright: np.flipud(upright),
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.rot90(upright),  # Stored anticlockwise; a viewer turns it clockwise.
    7: lambda upright: np.swapaxes(np.rot90(upright, 2), 0, 1),
    8: lambda upright: np.rot90(upright, -1),
}

D50 = (0.9642, 1.0, 0.8249)
D65_XY = (0.3127, 0.3290)
SRGB_PRIMARIES = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3_PRIMARIES = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_PRIMARIES = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def scene(width: int = 48, height: int = 32) -> Pixels:
    """Return a smooth image that every rotation or flip changes."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    red, green = 30 + 200 * x / width, 20 + 190 * y / height
    blue = 128 + 90 * np.sin(x / 7 + 1) * np.cos(y / 5)
    return np.stack([red, green, blue], axis=-1).round().astype(np.uint8)


def encode(picture: Image.Image | npt.NDArray[Any], file_format: str, **options: Any) -> bytes:
    """Encode with Pillow, or with pillow-heif for "HEIC"."""
    # Copy the image, because Pillow keeps one format's settings on it, which would affect the next format.
    image = picture.copy() if isinstance(picture, Image.Image) else Image.fromarray(picture)
    if "append_images" in options:
        options["append_images"] = [page.copy() for page in options["append_images"]]
    out = io.BytesIO()
    if file_format == "HEIC":
        pillow_heif.from_pillow(image).save(out, **options)
    else:
        image.save(out, file_format, **options)
    return out.getvalue()


def exif(orientation: int) -> bytes:
    """Return an EXIF block with an orientation."""
    block = Image.Exif()
    block[ORIENTATION] = orientation
    block[MAKE] = "Test"
    return block.tobytes()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int, depth: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    return PNG_SIGNATURE + png_chunk(
        b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    )


def png(samples: npt.NDArray[Any], *, interlaced: bool = False, extra: bytes = b"") -> bytes:
    """Return a PNG of uint8 or uint16 samples, [H,W] grey or [H,W,1…4]; `extra` chunks precede the pixels."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    depth = 8 * samples.dtype.itemsize
    steps = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: row and column of the first pixel of each pass, and the steps.
        steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2)]
        steps.append((1, 0, 2, 1))
    rows = b""
    for top, left, down, across in steps:
        for row in samples[top::down, left::across]:
            rows += b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = png_header(width, height, depth, colour, int(interlaced))
    return header + extra + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")


def tiff(
    samples: npt.NDArray[Any], photometric: int, tags: Mapping[int, tuple[int, Sequence[int]]] | None = None
) -> bytes:
    """Return an uncompressed little-endian TIFF; `tags`, as number → (type, values), replace or add entries."""
    samples = samples.reshape(*samples.shape[:2], -1)
    height, width, channels = samples.shape
    pixels = samples.astype("<u2" if samples.dtype.itemsize == 2 else "u1").tobytes()
    entries: dict[int, tuple[int, Sequence[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8 * samples.dtype.itemsize] * channels),
        259: (3, [1]),  # no compression
        262: (3, [photometric]),
        273: (4, [8]),  # The pixels follow the header.
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(pixels)]),
        **(tags or {}),
    }
    start = 8 + len(pixels) + len(pixels) % 2
    behind = start + 2 + 12 * len(entries) + 4
    directory, values_behind = struct.pack("<H", len(entries)), b""
    for tag, (kind, values) in sorted(entries.items()):
        packed = struct.pack(f"<{len(values)}{ {1: 'B', 3: 'H', 4: 'I', 7: 'B'}[kind] }", *values)
        if len(packed) > 4:
            packed, values_behind = (
                struct.pack("<I", behind + len(values_behind)),
                values_behind + packed + bytes(len(packed) % 2),
            )
        directory += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    picture = pixels.ljust(start - 8, b"\0")
    return b"II*\0" + struct.pack("<I", start) + picture + directory + bytes(4) + values_behind


def colorants(primaries: Sequence[tuple[float, float]]) -> Floats:
    """Return the RGB → XYZ matrix of a D65 colour space, adapted to D50 with Bradford, as profiles store it."""

    def xyz(x: float, y: float) -> Floats:
        return np.array([x / y, 1, (1 - x - y) / y])

    columns = np.stack([xyz(*primary) for primary in primaries], axis=1)
    white = xyz(*D65_XY)
    matrix = columns * np.linalg.solve(columns, white)
    gain = np.diag((BRADFORD @ np.array(D50)) / (BRADFORD @ white))
    return np.asarray(np.linalg.inv(BRADFORD) @ gain @ BRADFORD @ matrix)


def srgb_to_linear(values: Floats) -> Floats:
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def linear_to_srgb(values: Floats) -> Floats:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def icc_profile(curve: Sequence[int], matrix: Floats | None = None, space: bytes = b"RGB ") -> bytes:
    """Return an ICC version 2 display profile of a tone curve and RGB → XYZ columns (without a matrix: grey).

    A curve of one number is a gamma in units of 1/256; more numbers are a table of values in 0…65535.
    """

    def xyz(values: Sequence[float] | Floats) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(float(value) * 65536) for value in values))

    tone = b"curv\0\0\0\0" + struct.pack(f">I{len(curve)}H", len(curve), *curve)
    text = b"A test"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + bytes(1 + 78),
        b"cprt": b"text\0\0\0\0" + text + b"\0",
        b"wtpt": xyz(D50),
    }
    if matrix is None:
        tags[b"kTRC"] = tone
    else:
        for name, column in zip("rgb", matrix.T, strict=True):
            tags[f"{name}XYZ".encode()] = xyz(column)
            tags[f"{name}TRC".encode()] = tone

    table, bodies = struct.pack(">I", len(tags)), b""
    for name_of_tag, body in tags.items():
        table += name_of_tag + struct.pack(">II", 132 + 12 * len(tags) + len(bodies), len(body))
        bodies += body.ljust(-(-len(body) // 4) * 4, b"\0")
    length = 132 + 12 * len(tags) + len(bodies)
    header = struct.pack(">I4xI4s4s4s12x4s", length, 0x02100000, b"mntr", space, b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + xyz(D50)[8:]
    return header.ljust(128, b"\0") + table + bodies


ADOBE_RGB = icc_profile([0x0233], colorants(ADOBE_PRIMARIES))


def scan_segment(jpeg: bytes) -> tuple[int, int]:
    """Find the last scan of a JPEG: its start, and its end just before the end-of-image marker."""
    return jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")


def _planes(samples: npt.NDArray[Any], **options: Any) -> bytes:
    """Return RGB, [H,W,3], with each channel in its own plane, in a big-endian TIFF."""
    out = io.BytesIO()
    planes = np.moveaxis(samples, -1, 0)
    tifffile.imwrite(out, planes, photometric="rgb", planarconfig=2, byteorder=">", metadata=None, **options)
    return out.getvalue()


@cache
def samples() -> dict[str, bytes]:
    """Return small valid files of every supported kind."""
    rgb = scene()
    image = Image.fromarray(rgb)
    alpha = np.linspace(0, 255, rgb.shape[1]).astype(np.uint8)[None].repeat(len(rgb), 0)
    rgba = Image.fromarray(np.dstack([rgb, alpha]))
    grey16 = rgb[..., 0].astype(np.uint16) * 257
    other = image.transpose(Image.Transpose.ROTATE_180)
    pages: dict[str, Any] = {"save_all": True, "append_images": [other]}
    turned: dict[str, Any] = {"exif": exif(6), "icc_profile": ADOBE_RGB}
    return {
        "jpeg": encode(image, "JPEG", **turned),
        "jpeg-progressive": encode(image, "JPEG", progressive=True),
        "jpeg-grey": encode(image.convert("L"), "JPEG"),
        "jpeg-cmyk": encode(image.convert("CMYK"), "JPEG"),
        "mpo": encode(image, "MPO", **pages),
        "png": encode(image, "PNG", **turned),
        "png-rgba": encode(rgba, "PNG"),
        "png-palette": encode(image.quantize(16), "PNG", transparency=3),
        "png-1-bit": encode(image.convert("1"), "PNG"),
        "png-16-grey": png(grey16),
        "png-16-rgb": png(rgb.astype(np.uint16) * 257),
        "png-interlaced": png(rgb, interlaced=True),
        "apng": encode(image, "PNG", **pages),
        "gif": encode(image.quantize(32), "GIF", transparency=2),
        "gif-animated": encode(image, "GIF", **pages),
        "webp": encode(image, "WEBP", quality=70, **turned),
        "webp-lossless": encode(rgba, "WEBP", lossless=True),
        "webp-animated": encode(image, "WEBP", **pages),
        "avif": encode(image, "AVIF", **turned),
        "avif-alpha": encode(rgba, "AVIF"),
        "heic": encode(image, "HEIC", **turned),
        "heic-alpha": encode(rgba, "HEIC"),
        "tiff": encode(image, "TIFF", icc_profile=ADOBE_RGB, tiffinfo={ORIENTATION: 8}),
        "tiff-lzw": encode(image, "TIFF", compression="tiff_lzw"),
        "tiff-deflate": encode(rgba, "TIFF", compression="tiff_adobe_deflate"),
        "tiff-jpeg": encode(image, "TIFF", compression="jpeg"),
        "tiff-cmyk": encode(image.convert("CMYK"), "TIFF"),
        "tiff-16-rgb": tiff(rgb.astype(np.uint16) * 257, photometric=2),
        "tiff-16-planes": _planes(rgb.astype(np.uint16) * 257),
        "tiff-16-planes-tiled": _planes(
            rgb.astype(np.uint16) * 257, tile=(16, 16), compression="lzw", predictor=2
        ),
        "tiff-pages": encode(image, "TIFF", **pages),
        "bmp": encode(image, "BMP"),
        "bmp-palette": encode(image.quantize(16), "BMP"),
    }
