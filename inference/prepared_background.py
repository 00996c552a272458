"""The background of a result, prepared: a picture is decoded, and colours are brought into the photo's colour profile."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from cutout.inference.errors import InvalidBackground, InvalidPhoto
from cutout.inference.imaging import decode
from cutout.inference.imaging.backgrounds import Background, Gradient, Picture
from cutout.inference.imaging.color_profile import from_srgb
from cutout.inference.imaging.decode import Pixels, Size
from cutout.inference.imaging.types import Colour
from cutout.inference.limits import SizeLimits
from cutout.inference.options import Options


def prepared_background(
    options: Options, profile: bytes | None, sizes: SizeLimits
) -> tuple[Options, Pixels | None]:
    """Return the options with their background in the photo's colour profile, and the picture behind, uint8 [h,w,3].

    Raises:
        InvalidBackground: the picture cannot be read.

    """
    background = options.background
    if isinstance(background, Picture):
        return options, _decoded_picture(background, profile, sizes)
    if background is None or profile is None:
        return options, None
    return replace(options, background=_in_profile(background, profile)), None


def size_of(background: Picture, sizes: SizeLimits) -> Size:
    """Return the size of the picture behind, from its header.

    Raises:
        InvalidBackground: the picture cannot be read, or is too large.

    """
    if not background.data:
        raise InvalidBackground(
            "The picture for the background is empty, or no longer exists. Send it again."
        )
    with _named_background():
        return decode.read_size(background.data, sizes)


def _decoded_picture(background: Picture, profile: bytes | None, sizes: SizeLimits) -> Pixels:
    with _named_background():
        picture = decode.decode(background.data, sizes)
    rgb = picture.rgb
    if picture.alpha is not None:  # behind a background is white, as behind a JPEG
        weight = picture.alpha[..., None].astype(np.float32) / 255
        rgb = np.rint(255 + (rgb - np.float32(255)) * weight).astype(np.uint8)
    return rgb if profile is None else from_srgb(rgb, profile)


@contextmanager
def _named_background() -> Iterator[None]:
    """Say of a picture that cannot be read that it is the one for the background."""
    try:
        yield
    except InvalidPhoto as error:
        raise InvalidBackground(f"The picture for the background: {error}") from error


def _in_profile(background: Background, profile: bytes) -> Background:
    def convert(colour: Colour) -> Colour:
        red, green, blue = from_srgb(np.array([[colour[:3]]], np.uint8), profile)[0, 0].tolist()
        return (red, green, blue) if len(colour) == 3 else (red, green, blue, colour[3])

    if isinstance(background, tuple):
        return convert(background)
    if isinstance(background, Gradient):
        return replace(background, first=convert(background.first), last=convert(background.last))
    return background
