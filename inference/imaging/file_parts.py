"""The parts that a picture file consists of: a PNG's chunks, a JPEG's segments, and the blocks of an animated GIF."""

import zlib
from collections.abc import Collection, Iterator

from cutout.inference.errors import InvalidPhoto
from cutout.inference.imaging.jpeg import BARE_MARKERS

START_OF_SCAN = b"\xff\xda"

# Pillow reads a PNG's chunks and a JPEG's segments one by one. Real files have hundreds or a few thousand; millions of
# empty ones keep a core busy for minutes as well.
MAX_PARTS = 100_000
# A GIF's pixels and comments come in blocks of up to 255 bytes, which Pillow reads one by one too.
LEAST_GIF_BLOCK = 64

JPEG_SIGNATURE = b"\xff\xd8"
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GIF_SIGNATURES = (b"GIF87a", b"GIF89a")
GIF_FRAME, GIF_EXTENSION, GIF_TRAILER = b"\x2c", b"\x21", b"\x3b"
ANCILLARY = 0x20  # this bit, a lower-case first letter of its name, marks a chunk as optional


def has_too_many_parts(data: bytes) -> bool:
    """Return whether a PNG, a JPEG or a GIF has more parts than MAX_PARTS, reading them as Pillow would."""
    if data.startswith(GIF_SIGNATURES):
        return _has_too_many_blocks(data, MAX_PARTS + len(data) // LEAST_GIF_BLOCK)
    if data.startswith(PNG_SIGNATURE):
        step, place = _behind_chunk, len(PNG_SIGNATURE)
    elif data.startswith(JPEG_SIGNATURE):
        step, place = _behind_segment, 2
    else:
        return False
    for _ in range(MAX_PARTS):
        place = step(data, place)
        if place >= len(data):
            return False
    return True


def _behind_chunk(data: bytes, place: int) -> int:
    return place + 12 + int.from_bytes(data[place : place + 4])


def _behind_segment(data: bytes, place: int) -> int:
    """Return the end of the JPEG segment at `place`, or the end of the data if a scan starts there."""
    if data[place : place + 1] != b"\xff":  # stray bytes, which Pillow skips one by one
        return place + 1
    if data[place : place + 2] == START_OF_SCAN:
        return len(data)
    marker = data[place + 1 : place + 2]
    if marker in (b"\xff", b"\0"):  # fill bytes
        return place + 1
    if marker and marker[0] in BARE_MARKERS:
        return place + 2
    return place + 2 + max(2, int.from_bytes(data[place + 2 : place + 4]))


def _has_too_many_blocks(data: bytes, most: int) -> bool:
    try:
        for _ in _gif_parts(data):
            most -= 1
            if most < 0:
                return True
    except InvalidPhoto:  # it is cut short; what is there may have all that is needed
        pass
    return False


def _gif_parts(data: bytes) -> Iterator[tuple[bytes | None, int]]:
    """Return the kind of each part of a GIF, None for a block within one, and where it begins, up to the trailer."""
    place = 13 + _colours_bytes(data, 10)
    # A missing trailer is common and harmless.
    while (kind := data[place : place + 1]) not in (b"", GIF_TRAILER):
        yield kind, place
        if kind == GIF_FRAME:
            place += 11 + _colours_bytes(data, place + 9)
        elif kind == GIF_EXTENSION:
            place += 2
        else:  # stray bytes, which Pillow skips one by one
            place += 1
            continue
        while size := _byte(data, place):
            yield None, place
            place += 1 + size
        place += 1


def check_png_chunks(data: bytes, also: Collection[bytes] = ()) -> list[bytes]:
    """Reject truncated or altered critical chunks, as libpng does, and those of the kinds in `also`. Pillow decodes such
    files to wrong pixels. Return the kinds of all chunks, in order.

    Raises:
        InvalidPhoto: a chunk is truncated or altered.

    """
    place = len(PNG_SIGNATURE)
    kind, kinds = b"", list[bytes]()
    while kind != b"IEND":
        length = int.from_bytes(data[place : place + 4])
        kind, body_end = data[place + 4 : place + 8], place + 8 + length
        checksum = data[body_end : body_end + 4]
        if len(checksum) < 4:
            raise InvalidPhoto(damaged("the file ends inside a chunk"))
        matters = not kind[0] & ANCILLARY or kind in also
        if matters and zlib.crc32(memoryview(data)[place + 4 : body_end]) != int.from_bytes(checksum):
            raise InvalidPhoto(damaged("a checksum is wrong"))
        kinds.append(kind)
        place = body_end + 4
    return kinds


def count_gif_frames(data: bytes, most: int, width: int, height: int) -> int:
    """Return how many frames a GIF of this size has, at most one more than `most`, from its blocks alone: nothing is decoded.

    Raises:
        InvalidPhoto: the file ends within a block, or a frame reaches beyond the picture: Pillow would enlarge it.

    """
    frames = 0
    for kind, place in _gif_parts(data):
        if kind != GIF_FRAME:
            continue
        frames += 1
        box = [int.from_bytes(data[one : one + 2], "little") for one in range(place + 1, place + 9, 2)]
        if box[0] + box[2] > width or box[1] + box[3] > height:
            raise InvalidPhoto(damaged("a frame reaches beyond the picture"))
        if frames > most:
            break
    return frames


def _colours_bytes(data: bytes, place: int) -> int:
    """Return the bytes of a GIF's table of colours, which the flags at `place` announce."""
    flags = _byte(data, place)
    return 3 << (flags % 8 + 1) if flags & 0x80 else 0


def _byte(data: bytes, place: int) -> int:
    if place >= len(data):
        raise InvalidPhoto(damaged("the file ends inside a block"))
    return data[place]


def damaged(error: Exception | str) -> str:
    """Return the message for a file that cannot be decoded."""
    return f"The picture is truncated or damaged ({error}). Save it again and retry."
