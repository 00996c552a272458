"""Small copies of results, for lists of them."""

import io
from zipfile import ZipFile

from PIL import Image

from cutout.inference.errors import InvalidPhoto
from cutout.inference.imaging.decode import READ_FORMATS
from cutout.inference.imaging.encode import ZIP_ALPHA, ZIP_COLOUR, Format

# Of the longer side, in pixels.
LONGEST_SIDE = 320
QUALITY = 80


def thumbnail(result: bytes, file_format: Format) -> bytes:
    """Return a WebP of a result, with its transparency, of at most 320 × 320 pixels.

    `result` is a file that `encode` wrote. Of a ZIP the colours and the alpha are put together.

    Raises:
        InvalidPhoto: the result cannot be read.

    """
    try:
        small = _small_cutout(result) if file_format is Format.ZIP else _small(result)
        out = io.BytesIO()
        small.save(out, "WEBP", quality=QUALITY, method=2)
    except MemoryError:
        raise
    except Exception as error:
        raise InvalidPhoto("The result cannot be read.") from error
    return out.getvalue()


def _small(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=READ_FORMATS) as image:
        # A JPEG is decoded at a fraction of its size. For the others Pillow first takes the mean of square blocks, and
        # weights transparent pixels by their alpha.
        image.thumbnail((LONGEST_SIDE, LONGEST_SIDE), reducing_gap=2.0)
        image.load()
        return image if image.mode in ("RGB", "RGBA") else image.convert("RGB")


def _small_cutout(data: bytes) -> Image.Image:
    with ZipFile(io.BytesIO(data)) as archive:
        colours, alpha = _small(archive.read(ZIP_COLOUR)), _small(archive.read(ZIP_ALPHA))
    colours.putalpha(alpha.convert("L").resize(colours.size))
    return colours
