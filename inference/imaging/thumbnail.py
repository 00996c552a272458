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
# Of a reduced picture, that are made at once.
ROWS = 16


def small_copy(result: bytes, file_format: Format) -> bytes:
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
        small = _reduced(image) if image.mode == "RGBA" else image
        # A JPEG is decoded at a fraction of its size.
        small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), reducing_gap=2.0)
        small.load()
        return small if small.mode in ("RGB", "RGBA") else small.convert("RGB")


def _reduced(image: Image.Image) -> Image.Image:
    """Return the means of square blocks of an RGBA picture, weighted by their alpha, so that it is still large enough.

    Pillow's own way would hold a second copy of the whole picture.
    """
    factor = max(image.size) // (2 * LONGEST_SIDE)
    if factor < 2:
        return image
    width, height = image.size
    small = Image.new("RGBA", (-(-width // factor), -(-height // factor)))
    for row in range(0, small.height, ROWS):
        top, bottom = row * factor, min(height, (row + ROWS) * factor)
        small.paste(image.crop((0, top, width, bottom)).reduce(factor), (0, row))
    return small


def _small_cutout(data: bytes) -> Image.Image:
    with ZipFile(io.BytesIO(data)) as archive:
        colours, alpha = _small(archive.read(ZIP_COLOUR)), _small(archive.read(ZIP_ALPHA))
    colours.putalpha(alpha.convert("L").resize(colours.size))
    return colours
