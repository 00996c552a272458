"""Writing of animations: each frame is encoded as a still picture, and the files are joined to a GIF, APNG or WebP.

Pillow can write all three as well. It keeps all frames in memory, though, drops those that are like the one before, and
gives a GIF of cut-outs colours that flicker. Here a frame is in memory until it is encoded, every duration is kept, and
only the box in which a frame differs from the one before is written.
"""

import io
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from zlib import crc32

import numpy as np
from PIL import Image

from cutout.inference.imaging.color_profile import SRGB_ICC
from cutout.inference.imaging.decode import Pixels
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.file_parts import GIF_EXTENSION, GIF_FRAME, GIF_TRAILER, PNG_SIGNATURE
from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.gif import OPAQUE, TRANSPARENT, encode_gif
from cutout.inference.imaging.png import encode_png
from cutout.inference.imaging.resolution import Dpi

ONE_PIXEL = Box(0, 0, 1, 1)
MOST_PLAYS = 65_535
# In milliseconds; the frames of an APNG have fractions of a second.
WEBP_UNIT, GIF_UNIT = Fraction(1), Fraction(10)
# A WebP's flags: what is in the file, and that a frame replaces what it is put on.
HAS_PROFILE, HAS_ALPHA, IS_ANIMATION, REPLACES = 0x20, 0x10, 0x02, 0x02
# How a GIF's frame is left for the next one: as it is, or empty.
STAYS, IS_CLEARED = 1, 2


@dataclass(frozen=True)
class Part:
    """A frame as it is written: a still picture of the `box` in which it differs from the one before."""

    data: bytes = field(repr=False)
    box: Box
    is_transparent: bool


@dataclass(frozen=True)
class Style:
    """How a file is written. `plays` is how often it is shown, 0 for endless; the rest is as for `encode`."""

    file_format: Format
    quality: int
    plays: int = 0
    dpi: Dpi | None = None
    profile: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True)
class _File:
    """What is joined: all frames, for how long each is shown in milliseconds, and the size in pixels."""

    parts: Sequence[Part]
    durations: Sequence[Fraction]
    width: int
    height: int
    style: Style

    def in_units(self, unit: Fraction, most: int) -> Iterator[tuple[Part, int]]:
        """Return each frame and its duration in whole units. They are rounded where frames end: errors do not add up."""
        end, told = Fraction(0), 0
        for part, milliseconds in zip(self.parts, self.durations, strict=True):
            end += milliseconds
            duration = min(most, max(0, round(end / unit) - told))
            told += duration
            yield part, duration


def box_to_write(before: Pixels | None, pixels: Pixels, file_format: Format) -> Box:
    """Return the part of a frame, uint8 [H,W], [H,W,3] or [H,W,4], that has to be written after the frame `before`."""
    height, width = pixels.shape[:2]
    if file_format is Format.GIF and pixels.ndim == 3 and pixels.shape[2] == 4:
        # A GIF's frame cannot make what is there transparent: each one is drawn on an empty canvas.
        differs = pixels[..., 3] >= OPAQUE
    elif before is None:
        return Box(0, 0, width, height)
    else:
        differs = before != pixels
        if differs.ndim == 3:
            differs = differs.any(2)
    rows, columns = (np.flatnonzero(differs.any(axis)).tolist() for axis in (1, 0))
    if not rows:
        return ONE_PIXEL
    # A WebP's frames begin at even places.
    left, top = columns[0] // 2 * 2, rows[0] // 2 * 2
    return Box(left, top, columns[-1] + 1 - left, rows[-1] + 1 - top)


def encode_part(pixels: Pixels, box: Box, style: Style) -> Part:
    """Encode the `box` of a frame as a still picture."""
    part = np.ascontiguousarray(pixels[box.rows, box.columns])
    is_transparent = part.ndim == 3 and part.shape[2] == 4
    match style.file_format:
        case Format.PNG:
            data = encode_png(part, style.dpi, style.profile)
        case Format.GIF:
            data = encode_gif(part)
        case Format.WEBP:
            out = io.BytesIO()
            Image.fromarray(part).save(out, "WEBP", quality=style.quality, alpha_quality=100, method=2)
            data = out.getvalue()
        case _:
            raise ValueError(f"an animation cannot be written as {style.file_format}")
    return Part(data, box, is_transparent)


def join(
    parts: Sequence[Part], durations: Sequence[Fraction], width: int, height: int, style: Style
) -> bytes:
    """Return the file with these frames, of which there is at least one; each is shown for so many milliseconds."""
    writers = {Format.PNG: _png, Format.GIF: _gif, Format.WEBP: _webp}
    return b"".join(writers[style.file_format](_File(parts, durations, width, height, style)))


def _png(file: _File) -> Iterator[bytes]:
    yield PNG_SIGNATURE
    number = 0
    for index, (part, milliseconds) in enumerate(zip(file.parts, file.durations, strict=True)):
        seconds = _short(milliseconds / 1000)
        control = struct.pack(
            ">IIIIIHHBB",
            *(number, part.box.width, part.box.height, part.box.left, part.box.top),
            *(seconds.numerator, seconds.denominator, 0, 0),
        )
        number += 1
        is_begun = False
        for kind, body in _png_chunks(part.data):
            if kind != b"IDAT":
                if index == 0 and kind != b"IEND":
                    yield _png_chunk(kind, body)
                continue
            if not is_begun:
                if index == 0:
                    yield _png_chunk(
                        b"acTL", struct.pack(">II", len(file.parts), min(file.style.plays, MOST_PLAYS))
                    )
                yield _png_chunk(b"fcTL", control)
                is_begun = True
            if index == 0:
                yield _png_chunk(kind, body)
            else:
                yield _png_chunk(b"fdAT", struct.pack(">I", number) + body)
                number += 1
    yield _png_chunk(b"IEND", b"")


def _short(seconds: Fraction) -> Fraction:
    """Return the nearest fraction of two numbers of 16 bits."""
    seconds = min(seconds, Fraction(65_535))
    return seconds.limit_denominator(max(1, int(65_535 / max(Fraction(1), seconds))))


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG_SIGNATURE)
    while place < len(data):
        length = int.from_bytes(data[place : place + 4])
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + length]
        place += 12 + length


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc32(body, crc32(kind)))


def _gif(file: _File) -> Iterator[bytes]:
    yield b"GIF89a" + struct.pack("<HHBBB", file.width, file.height, 0, 0, 0)
    if file.style.plays != 1:
        repeated = min(max(file.style.plays - 1, 0), MOST_PLAYS)
        yield GIF_EXTENSION + b"\xff\x0bNETSCAPE2.0" + struct.pack("<BBHB", 3, 1, repeated, 0)
    for part, duration in file.in_units(GIF_UNIT, 65_535):
        left_as = IS_CLEARED if part.is_transparent else STAYS
        control = struct.pack(
            "<BBHBB",
            4,
            left_as << 2 | part.is_transparent,
            duration,
            TRANSPARENT if part.is_transparent else 0,
            0,
        )
        yield GIF_EXTENSION + b"\xf9" + control
        flags, table, packed = _gif_picture(part.data)
        box = part.box
        yield GIF_FRAME + struct.pack("<HHHHB", box.left, box.top, box.width, box.height, 0x80 | flags & 7)
        yield table
        yield packed
    yield GIF_TRAILER


def _gif_picture(data: bytes) -> tuple[int, bytes, bytes]:
    """Return from a GIF with one picture: the flags and the bytes of its table of colours, and its packed pixels."""
    flags, place = data[10], 13 + (3 << (data[10] % 8 + 1))
    table = data[13:place]
    while data[place : place + 1] == GIF_EXTENSION:
        place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    return flags, table, data[place + 10 : -1]


def _webp(file: _File) -> Iterator[bytes]:
    alpha = HAS_ALPHA if any(part.is_transparent for part in file.parts) else 0
    chunks = [
        _webp_chunk(
            b"VP8X",
            struct.pack("<I", IS_ANIMATION | HAS_PROFILE | alpha) + _three(file.width - 1, file.height - 1),
        ),
        _webp_chunk(b"ICCP", file.style.profile or SRGB_ICC),
        _webp_chunk(b"ANIM", struct.pack("<IH", 0, min(file.style.plays, MOST_PLAYS))),
    ]
    for part, duration in file.in_units(WEBP_UNIT, (1 << 24) - 1):
        box = part.box
        head = _three(box.left // 2, box.top // 2, box.width - 1, box.height - 1, duration)
        chunks.append(_webp_chunk(b"ANMF", head + bytes([REPLACES]) + _webp_picture(part.data)))
    body = b"WEBP" + b"".join(chunks)
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def _webp_picture(data: bytes) -> bytes:
    """Return the chunks of a WebP with one picture that have its pixels."""
    place, found = 12, b""
    while place < len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        end = place + 8 + length + length % 2
        if data[place : place + 4] in (b"ALPH", b"VP8 ", b"VP8L"):
            found += data[place:end]
        place = end
    return found


def _webp_chunk(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)


def _three(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(3, "little") for number in numbers)
