"""Decoding of picture files: check limits from the header, then decode, orient, convert to sRGB and read the alpha."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from cutout.inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat
from cutout.inference.imaging import tiff
from cutout.inference.imaging.color_profile import UnusableProfile, from_lab, is_rgb_profile, to_srgb
from cutout.inference.imaging.file_parts import (
    JPEG_SIGNATURE,
    START_OF_SCAN,
    check_png_chunks,
    damaged,
    has_too_many_parts,
)
from cutout.inference.imaging.jpeg import correct, decode_jpeg
from cutout.inference.imaging.resolution import Dpi, dpi_of
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits, pixels_of

Pixels = npt.NDArray[np.uint8]

# Pillow's format names. "JPEG" includes MPO, a JPEG with more pictures after the first, as many phones write.
READ_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
# All file suffixes of these formats: browsers and old programs write JPEGs as ".jfif" and ".jpe", cameras with two
# lenses as ".mpo"; cameras write HEICs as ".hif".
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".mpo"),
        *(".png", ".apng", ".webp", ".avif", ".avifs"),
        *(".heic", ".heif", ".hif", ".heics", ".heifs"),
        *(".tif", ".tiff", ".bmp", ".dib", ".gif"),
    }
)
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
CONTAINER_BRANDS = frozenset({b"mif1", b"msf1"})  # shared by HEIC and AVIF
AVIF_BRANDS = frozenset({b"avif", b"avis"})

# Each scan of a progressive JPEG may process all its pixels again. Real files have about ten scans; a small file with
# thousands of them keeps a core busy for minutes.
MAX_JPEG_SCANS = 100

ORIENTATION = 0x0112  # EXIF tag
UPRIGHT: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}

LYING = frozenset({5, 6, 7, 8})  # orientations that swap rows and columns

NOTE_FIRST_FRAME = "The file contains several pictures; the first one was used."
NOTE_ANIMATION = (
    "The file is an animation; its first frame was used. With animation=all every frame is cut out."
)
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP")
NOTE_PROFILE = "The embedded colour profile cannot be used; the colours were interpreted as sRGB."
NOTE_JPEG = "The JPEG file deviates from the standard, but the picture is complete."
NOTE_EXIF = "The EXIF data is damaged; the photo was treated as upright."


@dataclass(frozen=True)
class Photo:
    """A decoded picture, upright, normally in sRGB.

    `rgb` is uint8 [H,W,3]; `alpha` is the picture's own transparency, uint8 [H,W] of 0…255, or None.
    `dpi` is its resolution across and down, also upright, or None if the file does not state it.
    `notes` tell the user, in sentences, where the picture was not decoded exactly as the file states.
    `profile` is the ICC profile of the colours, or None if they are sRGB.
    """

    rgb: Pixels = field(repr=False)
    alpha: Pixels | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    dpi: Dpi | None = None
    profile: bytes | None = field(default=None, repr=False)

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


@dataclass(frozen=True)
class Size:
    """The size of a picture as its header states it, and how many pixels it counts as (see `limits.pixels_of`)."""

    width: int
    height: int
    pixels: int


@dataclass(frozen=True)
class Opened:
    """A picture file of which the header has been read and checked; `image` is None for a TIFF that tifffile decodes."""

    size: Size
    data: bytes = field(repr=False)
    header: tiff.Header | None
    image: Image.Image | None = None
    corrected: bool = False


def read_size(data: bytes, sizes: SizeLimits = DEFAULT_SIZES) -> Size:
    """Return the size of a picture from its header.

    Raises:
        InvalidPhoto: see `decode`.

    """
    opened = open_checked(data, sizes)
    if opened.image is not None:
        opened.image.close()
    return opened.size


def decode(
    data: bytes,
    sizes: SizeLimits = DEFAULT_SIZES,
    before: Callable[[Size], object] = lambda size: None,
    *,
    keep_profile: bool = False,
) -> Photo:
    """Decode a picture file; no memory is allocated for its pixels before its size has been checked.

    Reads JPEG (including CMYK), PNG, WebP, AVIF, HEIC, TIFF, BMP and GIF, with 1 to 16 bits a channel. `before` is
    called before the pixels are decoded, with the picture's size; its exceptions are passed on. With `keep_profile` the
    colours of an RGB picture stay in its own colour space, whose profile is returned with them.

    Raises:
        UnsupportedFormat: the bytes are not a picture of a known format.
        PhotoTooLarge: the picture exceeds `sizes`, a JPEG has more than 100 scans, or a file has more than
            100,000 parts.
        InvalidPhoto: the bytes are empty, truncated or damaged.

    """
    opened = open_checked(data, sizes)
    if opened.image is None:
        assert opened.header is not None
        before(opened.size)
        return _from_tiff(opened.header, keep_profile=keep_profile)
    with opened.image:
        before(opened.size)
        try:
            photo = to_photo(opened, keep_profile=keep_profile)
        except (MemoryError, InvalidPhoto):
            raise
        except Exception as error:
            raise InvalidPhoto(damaged(error)) from error
    sizes.check(photo.width, photo.height)  # some pictures are larger than their headers state
    return photo


def open_checked(data: bytes, sizes: SizeLimits) -> Opened:
    """Open a picture file: read its header, and check its size.

    Raises:
        InvalidPhoto: see `decode`.

    """
    if not data:
        raise InvalidPhoto("The file is empty. Send the picture's bytes.")
    if has_too_many_parts(data):
        raise PhotoTooLarge(
            "The file has too many parts and would take too long to read. Save it again and retry."
        )
    # Pillow's decoders raise many kinds of errors for damaged files. All of them are treated as a fault of the file.
    header = _read_tiff_header(data) if tiff.is_tiff(data) else None
    if header is not None and header.reader == "tifffile":
        width, height = header.width, header.height
        sizes.check(width, height)
        return Opened(Size(width, height, pixels_of(width, height) * header.weight), data, header)
    image, data, corrected = _open_corrected(data, sizes)
    try:
        _check_size(image, data, sizes)
    except BaseException:
        image.close()
        raise
    width, height = image.size
    return Opened(Size(width, height, pixels_of(width, height)), data, header, image, corrected)


def _open_corrected(data: bytes, sizes: SizeLimits) -> tuple[Image.Image, bytes, bool]:
    """Open a picture. Return it, the bytes it was opened from, and whether they were corrected for that."""
    try:
        try:
            return _open(data), data, False
        except Exception:
            # Pillow fails on some harmless deviations in a JPEG's header.
            better = correct(data) if data.startswith(JPEG_SIGNATURE) else None
            if better is None:
                raise
            return _open(better), better, True
    except UnidentifiedImageError:
        raise UnsupportedFormat(
            "This file is not a picture that can be read. Send a JPEG, PNG, WebP, AVIF, HEIC, TIFF, BMP or GIF."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoTooLarge(
            f"The picture has too many pixels; at most {sizes.pixels / 1e6:g} megapixels are allowed"
            " (CUTOUT_MAX_MEGAPIXELS). Scale it down and retry."
        ) from None
    except (MemoryError, UnsupportedFormat):
        raise
    except Exception as error:
        raise InvalidPhoto(damaged(error)) from error


def _read_tiff_header(data: bytes) -> tiff.Header:
    try:
        return tiff.read_header(data)
    except (MemoryError, InvalidPhoto):
        raise
    except Exception as error:
        raise InvalidPhoto(damaged(error)) from error


def _from_tiff(header: tiff.Header, *, keep_profile: bool) -> Photo:
    notes = [NOTE_FIRST_FRAME] if header.has_more else []
    try:
        pixels, mode, alpha = tiff.decode(header)
        kept = header.profile if keep_profile and is_rgb_profile(header.profile) and mode == "RGB" else None
        is_done = mode == "RGB" and (not header.profile or kept is not None)
        rgb = pixels if is_done else _in_srgb(Image.fromarray(pixels, mode), header.profile, notes)
    except (MemoryError, InvalidPhoto):
        raise
    except Exception as error:
        raise InvalidPhoto(damaged(error)) from error
    return _upright(Photo(rgb, alpha, tuple(notes), header.dpi, kept), header.orientation)


def _open(data: bytes) -> Image.Image:
    """Open a picture with Pillow, which reads only its header."""
    if _is_heic(data):
        try:
            from pillow_heif import HeifImageFile  # a large library that only HEIC files need
        except ImportError:
            raise UnsupportedFormat(
                "Reading HEIC needs pillow-heif on this host; run: pip install pillow-heif"
            ) from None
        image: Image.Image = HeifImageFile(io.BytesIO(data))  # type: ignore[no-untyped-call]
        return image
    # Pillow also opens a TIFF whose signature has its bytes swapped. Such a file would bypass the checks of `tiff`.
    formats = [name for name in READ_FORMATS if name != "TIFF" or tiff.is_tiff(data)]
    return Image.open(io.BytesIO(data), formats=formats)


def _is_heic(data: bytes) -> bool:
    if data[4:8] != b"ftyp":
        return False
    if data[8:12] in CONTAINER_BRANDS:
        end = min(int.from_bytes(data[:4]), 256)
        return AVIF_BRANDS.isdisjoint(data[place : place + 4] for place in range(16, end, 4))
    return data[8:12] in HEIC_BRANDS


def _check_size(image: Image.Image, data: bytes, sizes: SizeLimits) -> None:
    if image.width * image.height == 0:
        raise InvalidPhoto("The picture has no pixels. Save it again and retry.")
    sizes.check(image.width, image.height)
    if image.format == "PNG":
        check_png_chunks(data)
    if image.format in ("JPEG", "MPO") and data.count(START_OF_SCAN) > MAX_JPEG_SCANS:
        raise PhotoTooLarge(
            f"The JPEG has more than {MAX_JPEG_SCANS} scans and would take minutes to decode."
            " Save it again and retry."
        )


def to_photo(opened: Opened, *, keep_profile: bool) -> Photo:
    """Decode the pixels of an opened picture that Pillow decodes. Pillow's own errors are passed on."""
    image, header, notes = opened.image, opened.header, []
    assert image
    if image.format != "MPO" and getattr(image, "is_animated", False):
        notes.append(NOTE_ANIMATION if image.format in ANIMATED_FORMATS else NOTE_FIRST_FRAME)
    try:
        exif: Mapping[int, Any] = image.getexif()
        orientation = exif.get(ORIENTATION)
        dpi = dpi_of(image, exif)
    except Exception:  # noqa: BLE001 - a damaged EXIF block may raise anything
        orientation, dpi = None, dpi_of(image, {})
        notes.append(NOTE_EXIF)
    if header is not None:
        dpi = header.dpi[::-1] if header.dpi and orientation in LYING else header.dpi
        orientation = None  # Pillow already rotates a TIFF while decoding it
    profile, kept, alpha = image.info.get("icc_profile"), None, None
    if keep_profile and image.mode in ("RGB", "RGBA", "P", "PA") and is_rgb_profile(profile):
        profile, kept = None, profile
    if image.format in ("JPEG", "MPO"):
        # This gives the same pixels as Pillow in a third of the time, and unlike Pillow it reports truncated pictures.
        pixels, deviates = decode_jpeg(opened.data, image.mode, image.size)  # type: ignore[arg-type]
        if deviates or opened.corrected:
            notes.append(NOTE_JPEG)
        is_done = image.mode == "RGB" and not profile
        rgb = pixels if is_done else _in_srgb(Image.fromarray(pixels, image.mode), profile, notes)
    else:
        if image.has_transparency_data and image.mode.startswith("I;16"):
            # One grey level means transparent. Pillow's conversion would turn all levels above 255 to white.
            alpha = np.where(np.asarray(image) == image.info["transparency"], 0, 255).astype(np.uint8)
        elif image.has_transparency_data:
            if image.mode != "LA":
                image = image.convert("RGBA")
            alpha = np.array(image.getchannel("A"))
        rgb = _in_srgb(_colours(image), profile, notes)

    return _upright(Photo(rgb, alpha, tuple(notes), dpi, kept), orientation)


def _upright(photo: Photo, orientation: object) -> Photo:
    if not isinstance(orientation, int) or orientation not in UPRIGHT:
        return photo
    turn = UPRIGHT[orientation]
    alpha = None if photo.alpha is None else np.ascontiguousarray(turn(photo.alpha))
    dpi = photo.dpi[::-1] if photo.dpi and orientation in LYING else photo.dpi
    return replace(photo, rgb=np.ascontiguousarray(turn(photo.rgb)), alpha=alpha, dpi=dpi)


def _colours(image: Image.Image) -> Image.Image:
    """Convert a picture to 8 bits and to a mode that a profile can apply to: RGB, L, CMYK or LAB."""
    if image.mode.startswith("I;16"):
        return _eight_bits(image)
    if image.mode in ("I", "F"):
        raise UnsupportedFormat(
            "32-bit pixels are not supported. Save the picture with 8 or 16 bits per channel."
        )
    if image.mode in ("1", "LA", "La"):
        return image.convert("L")
    return image if image.mode in ("RGB", "L", "CMYK", "LAB") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert a grey picture from 16 to 8 bits."""
    return Image.fromarray((np.asarray(image) * (255 / 65535)).round().astype(np.uint8))


def _in_srgb(image: Image.Image, profile: bytes | None, notes: list[str]) -> Pixels:
    if profile:
        try:
            return np.array(to_srgb(image, profile).convert("RGB"))
        except UnusableProfile:
            notes.append(NOTE_PROFILE)
    if image.mode == "LAB":
        image = from_lab(image)
    return np.array(image.convert("RGB"))  # a copy, because torch needs writable arrays
