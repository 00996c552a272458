"""TIFF decoding with tifffile, for kinds of files whose meaning is certain. Other kinds are rejected with the reason.

Pillow decodes planar 16-bit files wrongly, loses the alpha of others, and does not support big-endian BigTIFF. It is
used only for files that libtiff alone decodes well: 8-bit pictures with JPEG compression, and black-and-white faxes.
"""

import io
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from cutout.inference.imaging.resolution import Dpi, from_tags

if TYPE_CHECKING:
    from tifffile import TiffPage

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[Any]
Mode = Literal["L", "RGB", "CMYK", "LAB"]

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # TIFF and BigTIFF

# Photometric interpretations
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
MODES: dict[int, Mode] = {
    WHITE_IS_ZERO: "L",
    BLACK_IS_ZERO: "L",
    RGB: "RGB",
    PALETTE: "RGB",
    CMYK: "CMYK",
    LAB: "LAB",
}
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, LAB: 3}
# Compressions: none, LZW, deflate (both of its codes), PackBits, Zstandard
OURS = frozenset({1, 5, 8, 32946, 32773, 50000})
FAX, JPEG = frozenset({2, 3, 4}), frozenset({6, 7})
UNSIGNED, SIGNED, FLOAT = 1, 2, 3  # sample formats
KINDS = {SIGNED: "signed integers", FLOAT: "floating-point numbers"}
ASSOCIATED, UNASSOCIATED = 1, 2  # kinds of alpha
REDUCED = 1  # a bit of NewSubfileType

ICC_PROFILE, DNG_VERSION, INK_SET = 34675, 50706, 332

MOST_BITS = 16
MOST_CHANNELS = 8
MOST_SEGMENTS = 100_000
MOST_PADDING = 8  # the tiles may have at most this many times the pixels of the picture
STRIP_PIXELS = 1 << 20  # pixels converted at once

# Attributes of a page that must be integers; in a damaged file they may be lists or text.
NUMBERS = (
    "imagewidth",
    "imagelength",
    "imagedepth",
    "samplesperpixel",
    "rowsperstrip",
    "tilewidth",
    "tilelength",
    "tiledepth",
    "photometric",
    "compression",
    "planarconfig",
    "predictor",
    "subfiletype",
)

SAVE_AS = "Save the picture as RGB with 8 or 16 bits per channel and retry."


@dataclass(frozen=True)
class Header:
    """Properties of a TIFF's first picture. `reader` is the library that decodes it; `dpi` is None if not stated."""

    width: int
    height: int
    reader: Literal["tifffile", "pillow"]
    profile: Any
    orientation: int
    dpi: Dpi | None
    has_more: bool
    page: "TiffPage"

    @property
    def weight(self) -> int:
        """Return the memory of a pixel relative to one of 8-bit RGBA, rounded up."""
        if self.reader == "pillow":
            return 1
        bytes_a_channel = 1 if self.page.bitspersample <= 8 else 2
        return math.ceil(self.page.samplesperpixel * bytes_a_channel / 4)


def is_tiff(data: bytes) -> bool:
    return data.startswith(SIGNATURES)


def read_header(data: bytes) -> Header:
    """Read the properties of a TIFF's first picture, without its pixels.

    Raises:
        UnsupportedFormat: this kind of TIFF is not supported; the message names the kind.
        InvalidPhoto: the header is damaged, or the picture has no pixels.
        Exception: the header is damaged in another way.

    """
    try:
        import tifffile  # imported on demand: a large library that only this format needs
    except ImportError:
        raise UnsupportedFormat(
            "Reading TIFF needs tifffile and imagecodecs on this host; run: pip install tifffile imagecodecs"
        ) from None
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # it logs every unusual tag
    # The file needs no closing: it is only a buffer in memory.
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    assert isinstance(page, tifffile.TiffPage)
    if not all(isinstance(getattr(page, name), int) for name in NUMBERS):
        raise InvalidPhoto("The TIFF's header is damaged. Save the picture again and retry.")
    if page.imagewidth == 0 or page.imagelength == 0:
        raise InvalidPhoto("The picture has no pixels. Save it again and retry.")
    if page.tags.get(DNG_VERSION) is not None or int(page.subfiletype) & REDUCED:
        raise UnsupportedFormat(
            "This TIFF begins with a preview, as cameras' raw files do. Convert it to JPEG, PNG or TIFF and send the result."
        )
    return Header(
        width=page.imagewidth,
        height=page.imagelength,
        reader=_reader_of(page),
        profile=page.tags.valueof(ICC_PROFILE),
        orientation=page.tags.valueof(274, 1),
        dpi=from_tags({tag.code: tag.value for tag in page.tags}),
        has_more=_has_more(data, page),
        page=page,
    )


def decode(header: Header) -> tuple[Pixels, Mode, Pixels | None]:
    """Decode a picture whose `reader` is "tifffile"; return its pixels, their mode, and the alpha.

    The pixels are uint8 [H,W] for "L", else [H,W,C]; the alpha is uint8 [H,W] or None. For LAB, a and b are signed
    bytes, as `Image.fromarray` expects them.

    Raises:
        PhotoTooLarge: the picture is in too many strips or tiles.
        InvalidPhoto: a part of the pixels is missing, or the tiles are far larger than the picture.
        Exception: a part of the pixels is damaged.

    """
    page = header.page
    photometric, bits = int(page.photometric), page.bitspersample
    count = COLOURS[photometric]
    alpha_kind, alpha_channel = _alpha_of(page, count)
    wanted = list(range(count)) if alpha_channel is None else [*range(count), alpha_channel]
    samples = _read(page, wanted)

    highest = 2**bits - 1
    levels = np.round(np.arange(highest + 1) * (255 / highest)).astype(np.uint8)
    height, width = samples.shape[:2]
    mode = MODES[photometric]
    channels = len(mode)
    pixels = np.empty((height, width, channels), np.uint8)
    alpha = None if alpha_channel is None else np.empty((height, width), np.uint8)
    palette = _palette(page) if photometric == PALETTE else None
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = slice(top, top + rows)
        colours = samples[strip, :, :count]
        if alpha is not None:
            alpha[strip] = levels[samples[strip, :, -1]]
        if palette is not None:
            pixels[strip] = palette[colours[..., 0]]
        elif alpha_kind == ASSOCIATED:
            pixels[strip] = _unassociated(colours, samples[strip, :, -1:], highest)
        else:
            pixels[strip] = levels[colours]
    if photometric == WHITE_IS_ZERO:
        np.subtract(255, pixels, out=pixels)
    return (pixels[..., 0] if mode == "L" else pixels), mode, alpha


def _reader_of(page: "TiffPage") -> Literal["tifffile", "pillow"]:
    photometric, compression, bits = int(page.photometric), int(page.compression), page.bitspersample
    form, count = int(page.sampleformat), page.samplesperpixel
    if compression in FAX and bits == count == 1 and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO):
        return "pillow"
    if (
        compression in JPEG
        and bits == 8
        and int(page.planarconfig) == 1
        and photometric in MODES | {YCBCR: "RGB"}
    ):
        return "pillow"
    if compression not in OURS:
        raise _refusal(f"it uses an unsupported compression ({_named(page.compression)})")
    if not isinstance(bits, int):
        raise _refusal(f"its channels have {bits} bits")
    if form in KINDS:
        raise _refusal(f"its samples are {KINDS[form]} of {bits} bits, which do not define white")
    if form not in (UNSIGNED, 4) or not 1 <= bits <= MOST_BITS:  # 4: unspecified
        raise _refusal(f"it has {bits} bits per channel")
    if photometric not in COLOURS:
        raise _refusal(f"it uses an unsupported colour space ({_named(page.photometric)})")
    if photometric == LAB and bits != 8:
        raise _refusal(f"it uses CIE L*a*b* with {bits} bits")
    if photometric == CMYK and page.tags.valueof(INK_SET, 1) != 1:
        raise _refusal("its inks are not cyan, magenta, yellow and black")
    if not COLOURS[photometric] <= count <= MOST_CHANNELS or page.imagedepth != 1:
        raise _refusal(f"it has {count} channels and a depth of {page.imagedepth}")
    if photometric == PALETTE and (bits > 8 or page.colormap is None):
        raise _refusal("its palette is missing or too large")
    return "tifffile"


def _read(page: "TiffPage", wanted: list[int]) -> Samples:
    """Read the `wanted` channels as uint8 or uint16 [H,W,C]."""
    height, width = page.imagelength, page.imagewidth
    planes = page.samplesperpixel if int(page.planarconfig) == 2 and page.samplesperpixel > 1 else 1
    if page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
        if rows * columns > max(height * width, STRIP_PIXELS) or page.tiledepth != 1:
            raise InvalidPhoto("The TIFF's tiles are far larger than its picture. Save it again and retry.")
    else:
        rows, columns = min(page.rowsperstrip, height), width
    segments = planes * math.ceil(height / max(1, rows)) * math.ceil(width / max(1, columns))
    if segments > MOST_SEGMENTS:
        raise PhotoTooLarge(
            f"The TIFF has {segments} strips or tiles; at most {MOST_SEGMENTS} are allowed. Save it again and retry."
        )
    if segments * rows * columns > MOST_PADDING * planes * max(height * width, STRIP_PIXELS):
        raise InvalidPhoto("The TIFF's tiles are far larger than its picture. Save it again and retry.")
    if min(len(page.dataoffsets), len(page.databytecounts)) < segments:
        raise InvalidPhoto("Some strips or tiles of the TIFF are missing. Save it again and retry.")

    out = np.empty((height, width, len(wanted)), np.uint8 if page.bitspersample <= 8 else np.uint16)
    filled = 0
    for block, (plane, _, top, left, _), _ in page.segments(maxworkers=1):
        if block is None:
            raise InvalidPhoto("Some strips or tiles of the TIFF are missing. Save it again and retry.")
        part = block[0, : height - top, : width - left]
        place = out[top : top + part.shape[0], left : left + part.shape[1]]
        if planes == 1:
            place[:] = part[..., wanted] if part.shape[-1] != len(wanted) else part
            filled += place.size
        elif plane in wanted:
            place[..., wanted.index(plane)] = part[..., 0]
            filled += part[..., 0].size
    if filled != out.size:
        raise InvalidPhoto("Some pixels of the TIFF are missing. Save it again and retry.")
    return out


def _alpha_of(page: "TiffPage", colours: int) -> tuple[int | None, int | None]:
    """Return the kind of a picture's alpha and its channel; (None, None) if it has none."""
    if page.samplesperpixel == colours:
        return None, None
    if page.tags.get(338) is None:  # the meaning of the extra channels is not stated
        return UNASSOCIATED, colours
    kinds = [int(kind) for kind in page.extrasamples]
    for channel, kind in enumerate(kinds, page.samplesperpixel - len(kinds)):
        if kind in (ASSOCIATED, UNASSOCIATED) and colours <= channel < page.samplesperpixel:
            return kind, channel
    return None, None


def _unassociated(colours: Samples, alpha: Samples, highest: int) -> Pixels:
    """Divide premultiplied colours, [H,W,C], by their alpha, [H,W,1]; return uint8 [H,W,C]."""
    scaled = colours.astype(np.float32) * 255
    scaled /= np.maximum(alpha, 1)
    return np.asarray(scaled.clip(0, 255).round(), np.uint8)


def _palette(page: "TiffPage") -> Pixels:
    """Return the picture's palette as uint8 [N,3]."""
    palette = np.asarray(page.colormap).reshape(3, -1).T
    if palette.max(initial=0) > 255:  # entries have 16 bits, but some programs write 8-bit values
        palette = palette // 256
    wide = np.zeros((2**page.bitspersample, 3), np.uint8)
    wide[: len(palette)] = palette[: len(wide)]
    return wide


def _has_more(data: bytes, page: "TiffPage") -> bool:
    """Return whether the file contains a picture after the first one."""
    form = page.parent.tiff
    count = int.from_bytes(
        data[page.offset : page.offset + form.tagnosize], "little" if form.byteorder == "<" else "big"
    )
    place = page.offset + form.tagnosize + count * form.tagsize
    return any(data[place : place + form.offsetsize])


def _named(value: Any) -> str:
    return getattr(value, "name", None) or str(value)


def _refusal(what: str) -> UnsupportedFormat:
    return UnsupportedFormat(f"This TIFF is not supported: {what}. {SAVE_AS}")
