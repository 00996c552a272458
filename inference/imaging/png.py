"""A PNG writer for photographs: one fixed filter and a fast deflate.

Pillow tries five filters on every row and deflates with the slower zlib: 2.8 s for twelve megapixels. Here each row is
stored as its difference to the row above (PNG's filter 2, "Up"), which numpy computes for a whole strip at once, and
deflated by ISA-L. The file has about the same size, in a fifteenth of the time.
"""

import struct

import numpy as np
from isal import isal_zlib

from cutout.inference.imaging.decode import Pixels
from cutout.inference.imaging.resolution import Dpi

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels: grey, grey with alpha, RGB, RGBA
UP = 2
PER_METRE = 1
METRES_AN_INCH = 0.0254
RELATIVE_COLORIMETRIC = 1
# Rows are filtered and deflated in strips, because a filtered copy of the whole picture would double the memory.
STRIP_BYTES = 1 << 20


def encode_png(pixels: Pixels, dpi: Dpi | None = None, profile: bytes | None = None) -> bytes:
    """Encode uint8 [H,W] (grey), [H,W,2] (grey, alpha), [H,W,3] (RGB) or [H,W,4] (RGBA, straight alpha).

    Colour pictures are marked as sRGB, or get the ICC `profile` if given, and `dpi` is written if given. The file follows the PNG specification, with 8
    bits a channel.

    Raises:
        ValueError: the picture has no pixels, or an unsupported shape.

    """
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in COLOUR_TYPES or not pixels.size:
        raise ValueError(f"a picture of shape {pixels.shape} cannot be written as PNG")
    height, width = pixels.shape[:2]

    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    parts = [SIGNATURE, *_chunk(b"IHDR", [header])]
    if channels >= 3 and profile is not None:
        parts += _chunk(b"iCCP", [b"ICC profile\0\0", isal_zlib.compress(profile)])
    elif channels >= 3:
        parts += _chunk(b"sRGB", [bytes([RELATIVE_COLORIMETRIC])])
    if dpi is not None:
        across, down = (round(one / METRES_AN_INCH) for one in dpi)
        parts += _chunk(b"pHYs", [struct.pack(">IIB", across, down, PER_METRE)])
    parts += _chunk(b"IDAT", _deflate(pixels.reshape(height, width * channels)))
    parts += _chunk(b"IEND", [])
    return b"".join(parts)


def _deflate(rows: Pixels) -> list[bytes]:
    """Filter and deflate rows, uint8 [H,bytes per row]."""
    height, width = rows.shape
    compressor = isal_zlib.compressobj()
    deflated = []
    strip = max(1, STRIP_BYTES // (width + 1))
    filtered = np.empty((min(strip, height), width + 1), np.uint8)
    filtered[:, 0] = UP
    for top in range(0, height, strip):
        bottom = min(top + strip, height)
        out = filtered[: bottom - top]
        if top == 0:
            out[0, 1:] = rows[0]
            np.subtract(rows[1:bottom], rows[: bottom - 1], out=out[1:, 1:])
        else:
            np.subtract(rows[top:bottom], rows[top - 1 : bottom - 1], out=out[:, 1:])
        deflated.append(compressor.compress(out.data))
    deflated.append(compressor.flush())
    return deflated


def _chunk(kind: bytes, body: list[bytes]) -> list[bytes]:
    """Return the parts of a chunk without joining them, so that a large picture is copied only once."""
    checksum = isal_zlib.crc32(kind)
    for part in body:
        checksum = isal_zlib.crc32(part, checksum)
    length = sum(map(len, body))
    return [struct.pack(">I", length), kind, *body, struct.pack(">I", checksum)]
