"""Reading of animations: GIF, APNG and animated WebP. Limits are checked before anything is decoded.

Frames are decoded one by one, as a viewer shows them: what each of them leaves of the one before is laid together by
Pillow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from PIL import Image

from cutout.inference.errors import InvalidPhoto
from cutout.inference.imaging.decode import ANIMATED_FORMATS, Photo, open_checked, to_photo
from cutout.inference.imaging.file_parts import check_png_chunks, count_gif_frames, damaged
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits

FRAME_CHUNK, DATA_CHUNK = b"fcTL", b"fdAT"
# What Pillow tells of a file as a whole, when it comes upon it: some of it may stand behind the last frame.
OF_FILE = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp", "icc_profile", "dpi")


@dataclass(frozen=True)
class Animation:
    """What the headers of an animation say: its `frames`, two or more, their size in pixels, and how often it `plays`.

    0 plays stand for endless ones.
    """

    frames: int
    width: int
    height: int
    plays: int


@dataclass(frozen=True)
class Frame:
    """One frame as a viewer shows it, and for how long, in exact milliseconds."""

    photo: Photo = field(repr=False)
    milliseconds: Fraction


def read_animation(data: bytes, sizes: SizeLimits = DEFAULT_SIZES) -> Animation | None:
    """Return what the headers of an animation say; None for any other picture. No frame is decoded.

    Raises:
        PhotoTooLarge: it has more frames, or more pixels in all of them, than `sizes` allows.
        InvalidPhoto: the bytes are not a picture, or are truncated; see `decode.decode`.

    """
    opened = open_checked(data, sizes)
    if opened.image is None:
        return None
    with opened.image as image:
        if image.format not in ANIMATED_FORMATS:
            return None
        frames = _frames_of(image, data, sizes.frames)
        if frames < 2:
            return None
        sizes.check_animation(frames, image.width, image.height)
        return Animation(frames, image.width, image.height, _plays_of(image))


def read_frames(
    data: bytes, animation: Animation, sizes: SizeLimits = DEFAULT_SIZES, *, keep_profile: bool = False
) -> Iterator[Frame]:
    """Decode the frames of an animation one by one; `animation` is what `read_animation` returned for it.

    With `keep_profile` the colours stay in the file's own colour space, as in `decode.decode`.

    Raises:
        InvalidPhoto: a frame is truncated or damaged.

    """
    opened = open_checked(data, sizes)
    assert opened.image is not None
    with opened.image as image:
        first, told = _first_of(image), dict[str | tuple[int, int], Any]()
        shape: tuple[int, ...] = ()
        for index in range(first, first + animation.frames):
            try:
                image.seek(index)
                # A copy is a still picture, and what is done to it does not change what the next frame is laid on.
                picture = image.copy()
                if index == first:
                    told = {name: picture.info[name] for name in OF_FILE if name in picture.info}
                else:  # a frame that alone is turned by 90 degrees would not fit to the others
                    picture.info = {k: v for k, v in picture.info.items() if k not in OF_FILE} | told
                photo = to_photo(replace(opened, image=picture), keep_profile=keep_profile)
                shape = shape or photo.rgb.shape
                if photo.rgb.shape != shape:
                    raise InvalidPhoto(damaged("its frames differ in size"))
            except (MemoryError, InvalidPhoto):
                raise
            except Exception as error:
                raise InvalidPhoto(damaged(error)) from error
            yield Frame(photo, Fraction(image.info.get("duration", 0)).limit_denominator(65_535))


def _frames_of(image: Image.Image, data: bytes, most: int) -> int:
    """Return how many frames a file has, at most one more than `most`."""
    if image.format == "GIF":  # Pillow would count all frames, which takes minutes for a million of them
        return count_gif_frames(data, most, *image.size)
    frames = int(getattr(image, "n_frames", 1)) - _first_of(image)
    if image.format == "PNG" and frames > 1:
        found = check_png_chunks(data, (FRAME_CHUNK, DATA_CHUNK)).count(FRAME_CHUNK)
        if found != frames:
            raise InvalidPhoto(damaged(f"it has {found} of {frames} frames"))
    return min(frames, most + 1)


def _first_of(image: Image.Image) -> int:
    """Return the index of the first frame: an APNG may have another picture before it, for viewers of stills."""
    return 1 if getattr(image, "default_image", False) else 0


def _plays_of(image: Image.Image) -> int:
    if image.format != "GIF":
        return int(image.info.get("loop", 0))
    # A GIF says how often it is repeated, and nothing if it is not.
    repeated = image.info.get("loop")
    if repeated is None:
        return 1
    return 0 if repeated == 0 else int(repeated) + 1
