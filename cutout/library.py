"""Background removal as a function, for Python programs: `from cutout import remove`."""

import io
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np
from PIL import Image

from cutout.app.bootstrap import engine_from, pull_missing
from cutout.app.config.settings import load as load_settings
from cutout.inference.engine import Engine
from cutout.inference.errors import InvalidPhoto
from cutout.inference.imaging.encode import Format
from cutout.inference.option_values import AnimationName, HolesName, OptionValues, ShadowName, to_options
from cutout.inference.options import Options
from cutout.inference.presets import load_presets
from cutout.inference.tiers import Tier
from cutout.inference.weights import download
from cutout.models.catalog import Checkpoint

Photo = bytes | str | Path | Image.Image | np.ndarray[Any, Any]
_engines: dict[Tier, Engine] = {}
_opening = threading.Lock()
# The modes that a PNG keeps as they are; others go through TIFF.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")

# The options that are pictures.
PICTURES = ("background_image", "keep_mask", "drop_mask")


class OptionKeywords(TypedDict, total=False):
    """The options of `remove` and `make_options`, as keyword arguments."""

    tier: Tier | str
    mask_only: bool
    background: str
    background_image: Photo
    quality: int
    trim: bool
    margin: str
    scale: str
    position: str
    canvas: str | tuple[int, int]
    roi: str
    box: str
    keep: str
    drop: str
    largest_only: bool
    keep_mask: Photo
    drop_mask: Photo
    holes: HolesName
    min_coverage: float
    shadow: ShadowName
    shadow_opacity: float
    keep_shadow: bool
    keep_profile: bool
    require_subject: bool
    max_megapixels: float
    animation: AnimationName
    preset: str


@overload
def remove(photo: Photo, *, format: None = None, **keywords: Unpack[OptionKeywords]) -> Image.Image: ...


@overload
def remove(photo: Photo, *, format: Format | str, **keywords: Unpack[OptionKeywords]) -> bytes: ...


def remove(
    photo: Photo, *, format: Format | str | None = None, **keywords: Unpack[OptionKeywords]
) -> Image.Image | bytes:
    """Remove the background of one photo.

    The first call opens an engine, which later calls share; it downloads the open weights if they are missing (113 MB).
    The environment variables of the service apply, such as `CUTOUT_DEVICE`. Safe to call from any number of threads.

    Args:
        photo: the bytes of a picture file, the path of one, a PIL image, or an array, uint8 [H,W] or [H,W,3 or 4].
        format: "png", "webp", "avif", "gif", "jpeg", "auto", "zip" or "mask" for bytes; None for a PIL image.
        **keywords: see `make_options`.

    Returns:
        A PIL image, or the bytes of a file if `format` is given.

    Raises:
        InvalidPhoto: the photo cannot be read, or is too large.
        InvalidOptions: an option has a value that cannot be used; the message names it.
        NoSubject: the photo shows no subject, and `require_subject` is set.
        ModelUnavailable: the device or the weights are not available.
        OSError: the file of a path cannot be read.

    """
    # A PIL image comes from a lossless file, whatever a preset says.
    options = make_options(format="png" if format is None else format, **keywords)
    cutout = _engine(options.tier).remove(_read(photo), options)
    return cutout.data if format is not None else Image.open(io.BytesIO(cutout.data))


def make_options(*, format: Format | str | None = None, **keywords: Unpack[OptionKeywords]) -> Options:
    """Return the options of a removal, for `Engine.remove` and `Engine.remove_many`.

    Args:
        format: "png", "webp", "avif", "gif", "jpeg", "auto", "zip" or "mask"; None: that of the preset, else "png", and
                "webp" for all frames of animations.
        **keywords: the options; those that are left out have the preset's value, or none.
            tier: "basic", "standard", "professional", "industry" or "preview".
            mask_only: return the alpha matte itself, as a grey picture.
            background: "white", "#ffffff80", "gradient(white, #dddddd, 90)", "blur", or "none".
            background_image: a picture instead, centred, that covers the result; given as `photo` is.
            quality: 1…100, for WebP, AVIF and JPEG.
            trim: cut the result to the subject. margin: such as "5%" or "10px 20px", with trim or canvas.
            scale: such as "80%". position: such as "center" or "50% 100%". canvas: "2000x2000", or two numbers.
            roi: the part of the photo with the subject: left, top, right and bottom, such as "10% 0% 90% 100%".
            box: the subject is inside of it, given as roi is. keep, drop: points on the parts of the subject that stay
                or go, such as "120px 80px, 50% 50%". largest_only: keep only the largest part.
            keep_mask, drop_mask: pictures, stretched to the photo, with white strokes on what stays or is added, and on
                what goes; given as `photo` is. holes: "fill": holes that the subject encloses become part of it.
            min_coverage: 0…100 percent; a subject that takes less of the photo counts as none.
            shadow: "soft" or "none". shadow_opacity: 0…100 percent. keep_shadow: keep the photo's own instead.
            keep_profile: keep the photo's colour profile. require_subject: fail with `NoSubject` without one.
            max_megapixels: scale a larger photo down before any work.
            animation: "all": cut out every frame of an animated GIF, APNG or WebP, for the formats "webp", "png" and "gif";
                "first", the default: only the first one.
            preset: the name of a preset, such as "amazon".

    Raises:
        InvalidOptions: an option has a value that cannot be used; the message names it.
        OSError: the file of a picture cannot be read.

    """
    given: dict[str, Any] = {**keywords, "format": format}
    if isinstance(given.get("canvas"), tuple):
        given["canvas"] = "x".join(map(str, given["canvas"]))
    has_pictures = False
    for name in PICTURES:
        if given.get(name) is not None:
            given[name], has_pictures = _read(given[name]), True
    values = OptionValues(**given)
    if values.preset is None and not has_pictures:
        return to_options(values)
    settings = load_settings()  # takes a while, and here they matter
    return load_presets(settings.presets).options(values, sizes=settings.limits.sizes)


def open_engine(tiers: Iterable[Tier] = tuple(Tier)) -> Engine:
    """Open an engine for many photos, to be used in a `with` block or closed. Missing open weights are downloaded.

    Raises:
        ModelUnavailable: the device or the weights are not available.

    """
    settings, wanted = load_settings(), tuple(tiers)

    def pull(checkpoint: Checkpoint) -> None:
        download.pull(settings.models_folder, checkpoint, settings.models_from)

    pull_missing(settings, wanted, pull)
    return engine_from(settings, wanted)


def _engine(tier: Tier) -> Engine:
    """Return the shared engine of a tier; it is opened once and lives as long as the process."""
    with _opening:
        if tier not in _engines:
            _engines[tier] = open_engine([tier])
        return _engines[tier]


def _read(photo: Photo) -> bytes:
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, str | Path):
        return Path(photo).read_bytes()
    if isinstance(photo, np.ndarray):
        if (
            photo.dtype != np.uint8
            or photo.ndim not in (2, 3)
            or (photo.ndim == 3 and photo.shape[2] not in (3, 4))
        ):
            raise InvalidPhoto(
                f"An array of {photo.dtype} {list(photo.shape)} is not a picture. Use uint8 [H,W], [H,W,3] or [H,W,4]."
            )
        photo = Image.fromarray(photo)
    data = io.BytesIO()
    if photo.mode in PNG_MODES:
        photo.save(data, "PNG", compress_level=1, icc_profile=photo.info.get("icc_profile"))
    else:
        photo.save(data, "TIFF", icc_profile=photo.info.get("icc_profile"))
    return data.getvalue()
