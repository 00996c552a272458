"""Background removal as a function, for Python programs: `from cutout import remove`."""

import io
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
from PIL import Image

from cutout.app.bootstrap import engine_from, pull_missing
from cutout.app.config.settings import load as load_settings
from cutout.inference.engine import Engine
from cutout.inference.errors import InvalidOptions, InvalidPhoto
from cutout.inference.imaging.backgrounds import parse_colour
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from cutout.inference.weights import download
from cutout.models.catalog import Checkpoint

Choice = TypeVar("Choice", Tier, Format)
Photo = bytes | str | Path | Image.Image | np.ndarray[Any, Any]
_engines: dict[Tier, Engine] = {}
_opening = threading.Lock()
# The modes that a PNG keeps as they are; others go through TIFF.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


@overload
def remove(
    photo: Photo,
    *,
    tier: Tier | str = ...,
    background: str | None = ...,
    mask_only: bool = ...,
    format: None = ...,
    quality: int = ...,
) -> Image.Image: ...


@overload
def remove(
    photo: Photo,
    *,
    tier: Tier | str = ...,
    background: str | None = ...,
    mask_only: bool = ...,
    format: Format | str,
    quality: int = ...,
) -> bytes: ...


def remove(
    photo: Photo,
    *,
    tier: Tier | str = Tier.BASIC,
    background: str | None = None,
    mask_only: bool = False,
    format: Format | str | None = None,
    quality: int = 90,
) -> Image.Image | bytes:
    """Remove the background of one photo.

    The first call opens an engine, which later calls share; it downloads the open weights if they are missing (113 MB).
    The environment variables of the service apply, such as `CUTOUT_DEVICE`. Safe to call from any number of threads.

    Args:
        photo: the bytes of a picture file, the path of one, a PIL image, or an array, uint8 [H,W] or [H,W,3 or 4].
        tier: "basic", "standard", "professional" or "industry".
        background: a colour as CSS writes it, such as "white" or "#ffffff", instead of transparency.
        mask_only: return the alpha matte itself, as a grey picture.
        format: "png", "webp", "avif" or "jpeg" for bytes; None for a PIL image.
        quality: 1…100, for WebP, AVIF and JPEG.

    Returns:
        A PIL image, or the bytes of a picture file if `format` is given.

    Raises:
        InvalidPhoto: the photo cannot be read, or is too large.
        InvalidOptions: there is no such tier, format or colour.
        ModelUnavailable: the device or the weights are not available.
        OSError: the file of the path cannot be read.

    """
    options = Options(
        tier=_one_of(Tier, tier),
        format=Format.PNG if format is None else _one_of(Format, format),
        mask_only=mask_only,
        background=None if background is None else parse_colour(background),
        quality=quality,
    )
    cutout = _engine(options.tier).remove(_read(photo), options)
    return cutout.data if format is not None else Image.open(io.BytesIO(cutout.data))


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


def _one_of(kind: type[Choice], value: Choice | str) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise InvalidOptions(
            f"{value!r} is not a {kind.__name__.lower()}. Choose one of: {', '.join(kind)}."
        ) from None


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
