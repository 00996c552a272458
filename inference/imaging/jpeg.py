"""JPEG decoding that is strict about lost picture data, and lenient about harmless deviations of the file format.

libjpeg fills missing parts of a picture with grey and only warns about it. So every file is first decoded strictly:
any warning is an error. If that fails, the harmless deviations that cameras and old programs write are corrected in a
copy, and the copy is decoded strictly. Then files with harmless deviations succeed, and files with lost data still
fail.
"""

import re
from typing import Literal

import numpy as np
import numpy.typing as npt
import simplejpeg

Pixels = npt.NDArray[np.uint8]
Mode = Literal["RGB", "L", "CMYK"]

START, END, START_OF_SCAN, ADOBE = 0xD8, 0xD9, 0xDA, 0xEE
SEQUENTIAL_FRAMES = frozenset({0xC0, 0xC1})
PROGRESSIVE_FRAME = 0xC2
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
# Markers without a length and a body: reserved ones, restarts, start and end of image, extensions.
BARE_MARKERS = frozenset({0x01, 0xC8, *range(0xD0, 0xDA), *range(0xF0, 0xFE)})
MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
# The next marker after a scan's data; restart markers are part of the data.
END_OF_SCAN = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)
WHOLE_SEQUENTIAL_SCAN = bytes([0, 63, 0])  # first and last coefficient, no successive approximation
ADOBE_BODY_BYTES = 12
COEFFICIENTS = 64

COLOURS = {"RGB": "RGB", "L": "GRAY", "CMYK": "CMYK"}
# If this is the first warning, there was none before the end of the picture: its data are complete, with extra bytes
# after them.
PADDED_END = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
MOST_PADDING_BYTES = 4096


def decode_jpeg(data: bytes, mode: Mode, size: tuple[int, int]) -> tuple[Pixels, bool]:
    """Decode a JPEG of `size` (width, height): uint8 [H,W,3], [H,W] for "L", or [H,W,4] for "CMYK".

    CMYK is as in Pillow: 0 is no ink. The flag is set if the file deviates from the standard in a harmless way.

    Raises:
        ValueError: the picture is truncated or damaged.

    """
    try:
        return _decode_strictly(data, mode), False
    except ValueError as error:
        first_error = error
    corrected = correct(data)
    if corrected is None or _size_of(corrected) != size:
        raise first_error
    try:
        return _decode_strictly(corrected, mode), True
    except ValueError as error:
        padding = PADDED_END.search(str(error))
        if padding is None or int(padding[1]) > MOST_PADDING_BYTES:
            raise
    return _decode(corrected, mode, strict=False), True


def correct(data: bytes) -> bytes | None:
    """Return a copy of a JPEG with harmless deviations corrected; None if the data are not a complete JPEG.

    These deviations are corrected: stray bytes between segments, Adobe segments that are too short, scan parameters of
    a sequential JPEG that do not cover all coefficients, and a missing end-of-image marker if all scans are present.
    Only decoding shows whether the data of the last scan are complete.
    """
    parts, place = [b"\xff\xd8"], 2
    progress = _Progress()
    while (found := MARKER.search(data, place)) is not None:
        marker, start = found[1][0], found.end() - 2
        if marker == END:
            return b"".join([*parts, b"\xff\xd9"])
        if marker in BARE_MARKERS:
            if marker == START:
                return None
            place = found.end()
            continue
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        if end < start + 4 or end > len(data):
            return None
        if marker == ADOBE and data[start + 4 : start + 9] == b"Adobe":
            place = _end_of_adobe(data, start, end)
            if place - start - 4 >= ADOBE_BODY_BYTES:
                parts.append(data[start:place])
            continue
        segment, place = data[start:end], end
        if marker in FRAMES:
            progress.begin(segment)
        if marker == START_OF_SCAN:
            if progress.frame in SEQUENTIAL_FRAMES:
                segment = segment[:-3] + WHOLE_SEQUENTIAL_SCAN
            progress.take(segment)
            scan_end = END_OF_SCAN.search(data, end)
            place = scan_end.start() if scan_end else len(data)
            segment += data[end:place].rstrip(b"\xff")
        parts.append(segment)
    return b"".join([*parts, b"\xff\xd9"]) if progress.is_whole() else None


class _Progress:
    """Tracks which bits of a frame's coefficients the scans so far contain."""

    def __init__(self) -> None:
        self.frame = 0
        self._left: dict[
            int, list[int]
        ] = {}  # component: for each coefficient, the bits that are still missing

    def begin(self, segment: bytes) -> None:
        self.frame = segment[1]
        self._left = {component: [8] * COEFFICIENTS for component in segment[10::3]}

    def take(self, segment: bytes) -> None:
        first, last, low = segment[-3], segment[-2], segment[-1] & 15
        for component in segment[5:-3:2]:
            if component in self._left and last < COEFFICIENTS:
                self._left[component][first : last + 1] = [low] * (last + 1 - first)

    def is_whole(self) -> bool:
        # With arithmetic coding, nothing shows whether the last scan is complete.
        huffman = self.frame in SEQUENTIAL_FRAMES or self.frame == PROGRESSIVE_FRAME
        return huffman and bool(self._left) and not any(map(any, self._left.values()))


def _end_of_adobe(data: bytes, start: int, end: int) -> int:
    """Return the end of an Adobe segment: as its length says, unless the next segment begins before that."""
    if data[end : end + 1] == b"\xff":
        return end
    early = MARKER.search(data, start + 9, end)
    return early.start() if early else end


def _size_of(data: bytes) -> tuple[int, int] | None:
    try:
        height, width = simplejpeg.decode_jpeg_header(data, strict=False)[:2]
    except (ValueError, KeyError):  # KeyError: there is no frame
        return None
    return width, height


def _decode_strictly(data: bytes, mode: Mode) -> Pixels:
    return _decode(data, mode, strict=True)


def _decode(data: bytes, mode: Mode, *, strict: bool) -> Pixels:
    pixels: Pixels = simplejpeg.decode_jpeg(data, COLOURS[mode], strict=strict)
    if mode == "CMYK":
        return np.subtract(255, pixels, out=pixels)
    return pixels[..., 0] if mode == "L" else pixels
