"""Photos as pictures that every browser shows, upright."""

import io

import numpy as np
from PIL import Image

from cutout.inference.imaging.decode import ORIENTATION, decode
from cutout.inference.imaging.encode import MAX_SIDE, Format, encode
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits

QUALITY = 90
# Formats of Pillow that browsers show.
SHOWN = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "GIF": "image/gif",
}


def for_browsers(photo: bytes, sizes: SizeLimits = DEFAULT_SIZES) -> tuple[bytes, str]:
    """Return a photo as a picture of the same size for browsers, as bytes, and its media type.

    Its pixels are where those of the decoded photo are, so that a result lies exactly over it. The bytes stay as they
    are where browsers show them so; else they are a JPEG, or a WebP or PNG with the photo's transparency.

    Raises:
        InvalidPhoto: see `decode`.

    """
    media_type = _shown_as(photo)
    if media_type is not None:
        return photo, media_type
    decoded = decode(photo, sizes)
    if decoded.alpha is None:
        return encode(decoded.rgb, Format.JPG, QUALITY), Format.JPG.media_type
    is_small = max(decoded.width, decoded.height) <= MAX_SIDE[Format.WEBP]
    file_format = Format.WEBP if is_small else Format.PNG
    return encode(np.dstack([decoded.rgb, decoded.alpha]), file_format, QUALITY), file_format.media_type


def _shown_as(photo: bytes) -> str | None:
    """Return the media type of a photo that every browser shows as `decode` reads it; else None.

    Browsers differ in which formats they turn by the orientation in the metadata, and which kinds of metadata they
    read. Of an animation they show all frames.
    """
    try:
        with Image.open(io.BytesIO(photo), formats=tuple(SHOWN)) as image:
            # An MPO is a JPEG with more pictures behind the first.
            name = "JPEG" if image.format == "MPO" else image.format or ""
            is_animated = name != "JPEG" and getattr(image, "is_animated", False)
            is_upright = image.getexif().get(ORIENTATION, 1) == 1
            return SHOWN[name] if is_upright and not is_animated else None
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - Pillow's readers raise many kinds; `decode` reads more than they do
        return None
