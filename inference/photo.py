"""Bytes → Photo: limits first, from the header, then decoding, orientation, existing alpha."""

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from inference.errors import InvalidPhoto, PhotoTooLarge, UnsupportedFormat

Pixels = npt.NDArray[np.uint8]

# Pillow's names. "JPEG" takes MPO in: a JPEG with more pictures behind the first, as many phones write.
READ_FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif"})

DEFAULT_MAX_PIXELS = 50_000_000


@dataclass(frozen=True)
class Photo:
    """A decoded picture, upright.

    `rgb` is uint8 [H,W,3]; `alpha` is the picture's own transparency, uint8 [H,W] of 0…255, or None.
    """

    rgb: Pixels
    alpha: Pixels | None = None

    @property
    def height(self) -> int:
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        return int(self.rgb.shape[1])


def decode(data: bytes, max_pixels: int = DEFAULT_MAX_PIXELS) -> Photo:
    """Decode a picture file; nothing is allocated for its pixels before its size is known to be allowed.

    Raises:
        UnsupportedFormat: the bytes are no picture of a known format.
        PhotoTooLarge: the picture has more than `max_pixels` pixels.
        InvalidPhoto: the bytes are empty, cut off or damaged.

    """
    if not data:
        raise InvalidPhoto("The file is empty. Send the picture's bytes.")
    try:
        image = Image.open(io.BytesIO(data), formats=READ_FORMATS)
    except UnidentifiedImageError:
        raise UnsupportedFormat(
            "This is no picture that can be read. Send a JPEG, PNG, WebP, AVIF, TIFF, BMP or GIF."
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PhotoTooLarge(_too_large(max_pixels)) from None
    except Exception as error:
        raise InvalidPhoto(f"The picture's header is damaged ({error}). Save it again and retry.") from error
    with image:
        if image.width * image.height > max_pixels:
            raise PhotoTooLarge(_too_large(max_pixels, image.size))
        # Pillow's decoders raise whatever a damaged file makes them stumble over: OSError,
        # SyntaxError, struct.error, ValueError and more. All of them are the file's fault.
        try:
            return _to_photo(ImageOps.exif_transpose(image))
        except MemoryError:
            raise
        except Exception as error:
            raise InvalidPhoto(
                f"The picture is cut off or damaged ({error}). Save it again and retry."
            ) from error


def _to_photo(image: Image.Image) -> Photo:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        rgba = np.asarray(image.convert("RGBA"))
        return Photo(np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3]))
    return Photo(np.array(image.convert("RGB")))


def _too_large(max_pixels: int, size: tuple[int, int] | None = None) -> str:
    found = f"The picture has {size[0]} × {size[1]} pixels" if size else "The picture has too many pixels"
    return f"{found}; at most {max_pixels / 1e6:g} megapixels are taken. Scale it down and retry."
