"""Test photos to send, and checks of the results."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable

from PIL import Image, ImageDraw, ImageFilter, ImageOps, UnidentifiedImageError
from pydantic import ValidationError

from cutout.app.verify.client import Failed, Shape

SIZE = WIDTH, HEIGHT = 640, 480
BALL = (200, 110, 440, 350)
PNG = "image/png"
MANIFEST = "manifest.json"
RED, GREEN, YELLOW = "#c8402f", "#3d8f4e", "#d9a521"
PHOTOS = {"verify-1.jpg": RED, "verify-2.jpg": GREEN, "verify-3.jpg": YELLOW}

# Alpha levels, 0…255: at least OPAQUE is foreground, at most CLEAR is background.
OPAQUE, CLEAR = 200, 40


class ManifestImageShape(Shape):
    name: str
    file: str | None
    status: str
    sha256: str | None


class ManifestShape(Shape):
    images: list[ManifestImageShape]


def photo(colour: str = RED) -> bytes:
    """Draw a ball on a table as a JPEG of `SIZE`."""
    wall = ImageOps.colorize(Image.linear_gradient("L").resize(SIZE), "#e9e6e0", "#b9b4aa")
    shadow = Image.new("L", SIZE)
    ImageDraw.Draw(shadow).ellipse((190, 325, 470, 375), fill=110)
    wall.paste("#4b4740", mask=shadow.filter(ImageFilter.GaussianBlur(14)))

    side = BALL[2] - BALL[0]
    # The light comes from the upper left: the centre of the larger gradient is placed there.
    light = ImageOps.invert(Image.radial_gradient("L")).resize((2 * side, 2 * side))
    light = light.crop((side * 2 // 3, side * 2 // 3, side * 5 // 3, side * 5 // 3))
    ball = ImageOps.colorize(
        light, "#140d0b", "#fff4ec", mid=colour, blackpoint=70, midpoint=170, whitepoint=255
    )
    disc = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(disc).ellipse((0, 0, 4 * side - 1, 4 * side - 1), fill=255)
    wall.paste(ball, BALL[:2], disc.resize((side, side), Image.Resampling.LANCZOS))

    out = io.BytesIO()
    wall.save(out, "JPEG", quality=92)
    return out.getvalue()


def require_cut_out(data: bytes, media_type: str = PNG) -> int:
    """Check a cut-out of `photo` and return the share of its foreground in percent.

    Raises:
        Failed: the data is not such a cut-out.

    """
    if media_type != PNG:
        raise Failed(f"The response has the type {media_type or 'none'}, but {PNG} was requested.")
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError) as error:
        raise Failed(f"The response is not a PNG that can be read ({error}).") from error
    if picture.size != SIZE:
        raise Failed(
            f"The picture has {picture.width}×{picture.height} pixels, but the photo {WIDTH}×{HEIGHT}."
        )
    if picture.mode not in ("RGBA", "LA"):
        raise Failed(f"The picture has no transparency (it is {picture.mode}).")
    alpha = picture.getchannel("A")
    percent = 100 * sum(alpha.histogram()[OPAQUE:]) // (WIDTH * HEIGHT)
    corner = alpha.getpixel((0, 0))
    if percent == 0:
        raise Failed("No subject was found in the photo: the picture is empty. Check the weights.")
    if not isinstance(corner, int) or corner > CLEAR:
        raise Failed("The background is still there: the picture's corner is not transparent.")
    return percent


def require_archive(data: bytes, photos: Iterable[str]) -> None:
    """Check the ZIP of a batch of photos with these file names.

    Raises:
        Failed: the ZIP, its manifest or its results are not as expected.

    """
    expected = {name: f"{name.rpartition('.')[0]}.png" for name in photos}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        manifest = ManifestShape.model_validate_json(files.pop(MANIFEST))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise Failed(f"The ZIP cannot be opened ({error}).") from error
    except KeyError:
        raise Failed(f"The ZIP has no {MANIFEST}.") from None
    except ValidationError as error:
        raise Failed(f"The ZIP's {MANIFEST} is invalid ({error.errors()[0]['msg']}).") from error
    if set(files) != set(expected.values()):
        raise Failed(
            f"The ZIP has {', '.join(sorted(files)) or 'no pictures'}, not {', '.join(expected.values())}."
        )
    if {image.name: image.file for image in manifest.images} != expected:
        raise Failed(f"The ZIP's {MANIFEST} does not list each photo with its picture.")
    for image in manifest.images:
        picture = files[expected[image.name]]
        if hashlib.sha256(picture).hexdigest() != image.sha256:
            raise Failed(
                f"The SHA-256 of {image.file} in the ZIP differs from {MANIFEST}: it was changed or truncated."
            )
        require_cut_out(picture)
