"""Pixels → the bytes of a picture file."""

import io
from enum import StrEnum

import numpy as np
from PIL import Image

from inference.photo import Pixels


class Format(StrEnum):
    """A file format of a result. JPEG has no transparency, so it is laid on a background."""

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"
    AVIF = "avif"

    @property
    def media_type(self) -> str:
        return "image/jpeg" if self is Format.JPG else f"image/{self.value}"

    @property
    def has_alpha(self) -> bool:
        return self is not Format.JPG


def encode(picture: Pixels, file_format: Format, quality: int) -> bytes:
    """Encode uint8 [H,W] (grey), [H,W,3] (RGB) or [H,W,4] (RGBA, straight alpha).

    `quality`, 1…100, is for WebP, AVIF and JPEG; PNG is lossless.
    """
    image = Image.fromarray(picture)
    out = io.BytesIO()
    match file_format:
        case Format.PNG:
            # Level 1 takes a quarter of the default's time; photographs gain little from more.
            image.save(out, "PNG", compress_level=1)
        case Format.WEBP:
            image.save(out, "WEBP", quality=quality, alpha_quality=100, method=2)
        case Format.AVIF:
            image.save(out, "AVIF", quality=quality, speed=8)
        case Format.JPG:
            image.save(out, "JPEG", quality=quality)
    return out.getvalue()


def with_alpha(rgb: Pixels, alpha: Pixels) -> Pixels:
    """Join uint8 [H,W,3] and [H,W] to RGBA, uint8 [H,W,4]."""
    return np.dstack((rgb, alpha))
