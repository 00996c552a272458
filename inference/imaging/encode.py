"""Encoding of pixels to picture files, marked as sRGB."""

import io
from enum import StrEnum
from typing import Any
from zipfile import ZipFile, ZipInfo

import numpy as np
from PIL import Image

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.color_profile import SRGB_ICC
from cutout.inference.imaging.decode import Pixels
from cutout.inference.imaging.gif import encode_gif
from cutout.inference.imaging.png import encode_png
from cutout.inference.imaging.resolution import Dpi, as_exif


class Format(StrEnum):
    """The file format of a result. JPEG has no transparency, so its cut-outs are put on a background.

    A GIF has pixels that are transparent or opaque, and at most 256 colours.
    `AUTO` is only an option: the result is a PNG if any of its pixels is transparent, else a JPEG. `ZIP` holds the
    subject's colours as `color.jpg` and its alpha as `alpha.png`.
    """

    PNG = "png"
    WEBP = "webp"
    JPG = "jpg"
    AVIF = "avif"
    GIF = "gif"
    AUTO = "auto"
    ZIP = "zip"

    @property
    def media_type(self) -> str:
        return MEDIA_TYPES[self]

    @property
    def has_alpha(self) -> bool:
        return self is not Format.JPG

    @property
    def can_move(self) -> bool:
        """Whether it can hold an animation."""
        return self in (Format.PNG, Format.WEBP, Format.GIF)


MEDIA_TYPES = {
    Format.PNG: "image/png",
    Format.WEBP: "image/webp",
    Format.JPG: "image/jpeg",
    Format.AVIF: "image/avif",
    Format.GIF: "image/gif",
    Format.AUTO: "image/*",
    Format.ZIP: "application/zip",
}
# The largest side that each format supports; the limit of PNG is beyond that of any photo.
MAX_SIDE = {
    Format.WEBP: 16_383,
    Format.JPG: 65_500,
    Format.AVIF: 65_536,
    Format.GIF: 65_535,
    Format.ZIP: 65_500,
}
ZIP_COLOUR, ZIP_ALPHA = "color.jpg", "alpha.png"


def check_size(file_format: Format, width: int, height: int) -> None:
    """Check that the format can store a picture of this size.

    Raises:
        InvalidOptions: the format cannot; the message names what to change.

    """
    most = MAX_SIDE.get(file_format)
    if most is not None and max(width, height) > most:
        raise InvalidOptions(
            f"{file_format.value} allows at most {most:,} pixels per side, and the picture has {width} × {height}. Choose"
            " another format (format, or --format), such as png, or scale the photo down."
        )


def resolve(file_format: Format, picture: Pixels) -> Format:
    """Return the format in which a picture is written: that of `AUTO` is JPEG, unless it is not opaque, or too large."""
    if file_format is not Format.AUTO:
        return file_format
    opaque = picture.ndim == 3 and (picture.shape[2] == 3 or bool((picture[..., 3] == 255).all()))
    return Format.JPG if opaque and max(picture.shape) <= MAX_SIDE[Format.JPG] else Format.PNG


def encode(
    picture: Pixels, file_format: Format, quality: int, dpi: Dpi | None = None, profile: bytes | None = None
) -> bytes:
    """Encode uint8 [H,W] (grey), [H,W,3] (RGB) or [H,W,4] (RGBA, straight alpha).

    `quality`, 1…100, applies to WebP, AVIF and JPEG; PNG is lossless, and so is the alpha of WebP. `dpi` is the only
    metadata of the photo that is written to the file. `profile` is the ICC profile of the colours, None for sRGB.

    Raises:
        InvalidOptions: the picture is too wide or too high for the format.

    """
    check_size(file_format, picture.shape[1], picture.shape[0])
    if file_format is Format.PNG:
        return encode_png(picture, dpi, profile)
    if file_format is Format.GIF:
        return encode_gif(picture)
    if file_format is Format.ZIP:
        return _colours_and_alpha(picture, dpi, profile)
    if file_format is Format.JPG and picture.ndim == 3:
        picture = picture[..., :3]
    image = Image.fromarray(picture)
    told: dict[str, Any] = {} if picture.ndim == 2 else {"icc_profile": profile or SRGB_ICC}
    if dpi is not None:
        told |= {"dpi": dpi} if file_format is Format.JPG else {"exif": as_exif(dpi)}
    out = io.BytesIO()
    match file_format:
        case Format.WEBP:
            image.save(out, "WEBP", quality=quality, alpha_quality=100, method=2, **told)
        case Format.AVIF:
            image.save(out, "AVIF", quality=quality, speed=8, subsampling="4:4:4", **told)
        case Format.JPG:
            # Chroma subsampling would make the background bleed into the edge of the subject.
            image.save(out, "JPEG", quality=quality, subsampling="4:4:4", **told)
        case _:
            raise ValueError(f"{file_format} must be resolved first")
    return out.getvalue()


def _colours_and_alpha(picture: Pixels, dpi: Dpi | None, profile: bytes | None) -> bytes:
    """Return a ZIP with the colours of uint8 [H,W,4] as a JPEG of the highest quality, and its alpha as a grey PNG."""
    out = io.BytesIO()
    with ZipFile(out, "w") as archive:
        for name, data in (
            (ZIP_COLOUR, _exact_jpeg(np.ascontiguousarray(picture[..., :3]), dpi, profile)),
            (ZIP_ALPHA, encode_png(np.ascontiguousarray(picture[..., 3]), dpi)),
        ):
            archive.writestr(
                ZipInfo(name), data
            )  # without the time of day, so that equal results are equal bytes
    return out.getvalue()


def _exact_jpeg(colours: Pixels, dpi: Dpi | None, profile: bytes | None) -> bytes:
    """Encode uint8 [H,W,3] as a JPEG whose pixels differ by at most 2 levels: without the lossy change to YCbCr.

    Decoders know such a file by its Adobe marker, as libjpeg has written and read it since 1991.
    """
    out = io.BytesIO()
    told = {} if dpi is None else {"dpi": dpi}
    Image.fromarray(colours).save(
        out, "JPEG", quality=100, keep_rgb=True, icc_profile=profile or SRGB_ICC, **told
    )
    return out.getvalue()
