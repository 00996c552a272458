"""Options of remove.bg and Photoroom as options of the engine."""

from collections.abc import Mapping

from cutout.app.compat.fields import Fields
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import parse_colour
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import (
    NO_MARGIN,
    Layout,
    Length,
    Margin,
    Region,
    Unit,
    parse_margin,
    parse_position,
    parse_region,
    parse_scale,
)
from cutout.inference.imaging.types import Colour
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

MEGAPIXEL = 1_000_000
# The most pixels of each size of remove.bg.
SIZES = {
    "preview": MEGAPIXEL // 4,
    "small": MEGAPIXEL // 4,
    "regular": MEGAPIXEL // 4,
    "medium": MEGAPIXEL * 3 // 2,
    "hd": 4 * MEGAPIXEL,
    "full": 25 * MEGAPIXEL,
    "4k": 25 * MEGAPIXEL,
    "50MP": 50 * MEGAPIXEL,
    "auto": 50 * MEGAPIXEL,
}
PNG_PIXELS = 10 * MEGAPIXEL
FORMATS = {
    "auto": Format.AUTO,
    "png": Format.PNG,
    "jpg": Format.JPG,
    "jpeg": Format.JPG,
    "webp": Format.WEBP,
    "zip": Format.ZIP,
}
CHANNELS = {"rgba": False, "alpha": True}
MOST_MARGIN = {Unit.PIXELS: 500.0, Unit.PERCENT: 50.0}
LEAST_SCALE = 0.1
USUAL_SHADOW = 0.5
ALL = Length(100.0, Unit.PERCENT)
WHOLE_PHOTO = {Region(Length(0.0, unit), Length(0.0, unit), ALL, ALL) for unit in Unit}


def remove_bg_options(fields: Fields, tiers: Mapping[str, Tier], *, all_pixels: int) -> Options:
    """Return the options that a request for remove.bg asks for, without the picture that may stand behind the subject.

    `tiers` has the tier of each size. `all_pixels` is the most that this service accepts; a size of as many pixels or
    more does not scale a photo down.

    Raises:
        CompatInputError: a field has a value that cannot be used.

    """
    size = fields.choose("size", {name: name for name in SIZES}, "preview")
    file_format = fields.choose("format", FORMATS, Format.AUTO)
    mask_only = fields.choose("channels", CHANNELS, False) and file_format is not Format.ZIP
    background = fields.parse("bg_color", _colour, None)
    shadow = _shadow(fields)
    fields.flag("semitransparency")  # checked, and without effect
    is_opaque = mask_only or has_picture(fields) or (background is not None and len(background) == 3)
    most = SIZES[size]
    if file_format is Format.PNG or (file_format is Format.AUTO and not is_opaque):
        most = min(most, PNG_PIXELS)
    return Options(
        tier=tiers[size.lower()],
        format=file_format,
        mask_only=mask_only,
        background=None if mask_only else background,
        shadow=0.0 if mask_only else shadow,
        layout=_layout(fields, most if most < all_pixels else None),
        require_subject=True,
    )


def has_picture(fields: Fields) -> bool:
    """Tell whether a request has a picture for the background."""
    return "bg_image_file" in fields.files or "bg_image_url" in fields.texts


def _layout(fields: Fields, most_pixels: int | None) -> Layout:
    trim = fields.flag("crop")
    margin = fields.parse("crop_margin", _margin, NO_MARGIN)
    region = fields.parse("roi", parse_region, None)
    return Layout(
        trim=trim,
        margin=margin if trim else NO_MARGIN,
        scale=fields.parse("scale", _scale, None),
        position=fields.parse("position", parse_position, None),
        region=None if region in WHOLE_PHOTO else region,
        max_pixels=most_pixels,
    )


def _colour(text: str) -> Colour | None:
    return parse_colour(text)


def _margin(text: str) -> Margin:
    margin = parse_margin(text)
    for side in (margin.top, margin.right, margin.bottom, margin.left):
        if side.value > MOST_MARGIN[side.unit]:
            raise InvalidOptions(f"{text!r} is too large. Send at most 50% or 500px a side.")
    return margin


def _scale(text: str) -> float | None:
    scale = parse_scale(text)
    if scale is not None and scale < LEAST_SCALE:
        raise InvalidOptions(f"{text!r} is too small. Send original, or percent from 10% to 100%.")
    return scale


def _shadow(fields: Fields) -> float:
    """Return the opacity of the shadow: there is one kind, which stands for all of theirs."""
    wanted = fields.flag("add_shadow")
    kind = fields.texts.get("shadow_type")
    if kind is not None:
        wanted = kind.strip().lower() != "none"
    opacity = fields.number("shadow_opacity", 0, 100, 100 * USUAL_SHADOW) / 100
    return opacity if wanted else 0.0
