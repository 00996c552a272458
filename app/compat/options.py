"""Options of remove.bg, Photoroom and rembg as options of the engine."""

import re
from collections.abc import Mapping

from cutout.app.compat.fields import FLAGS, Fields
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
PHOTOROOM_SIZES = {name: SIZES[name] for name in ("preview", "medium", "hd")} | {"full": 36 * MEGAPIXEL}
PHOTOROOM_FORMATS = {name: FORMATS[name] for name in ("png", "jpg", "jpeg", "webp")}
# Those that remove any background. The others answer with something else, or need a model file on the server.
REMBG_MODELS = [
    "u2net",
    "u2netp",
    "u2net_human_seg",
    "silueta",
    "isnet-general-use",
    "isnet-anime",
    "bria-rmbg",
    "withoutbg",
    "birefnet-general",
    "birefnet-general-lite",
    "birefnet-portrait",
    "birefnet-dis",
    "birefnet-hrsod",
    "birefnet-cod",
    "birefnet-massive",
]
REMBG_FLAGS = FLAGS | {"on": True, "t": True, "y": True, "off": False, "f": False, "n": False}
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
    # A mask is a PNG where the format is automatic.
    is_opaque = not mask_only and (has_picture(fields) or (background is not None and len(background) == 3))
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


def photoroom_options(fields: Fields, tiers: Mapping[str, Tier], *, all_pixels: int) -> Options:
    """Return the options that a request for Photoroom asks for; see `remove_bg_options`.

    Raises:
        CompatInputError: a field has a value that cannot be used.

    """
    size = fields.choose("size", {name: name for name in PHOTOROOM_SIZES}, "full")
    mask_only = fields.choose("channels", CHANNELS, False)
    background = fields.parse("bg_color", _colour, None)
    fields.flag("despill")  # checked, and without effect
    most = PHOTOROOM_SIZES[size]
    return Options(
        tier=tiers[size],
        format=fields.choose("format", PHOTOROOM_FORMATS, Format.PNG),
        mask_only=mask_only,
        background=None if mask_only else background,
        layout=Layout(trim=fields.flag("crop"), max_pixels=most if most < all_pixels else None),
        require_subject=True,
    )


def rembg_options(fields: Fields, tiers: Mapping[str, Tier]) -> Options:
    """Return the options that a request for a rembg server asks for.

    Raises:
        CompatInputError: a field has a value that cannot be used.

    """
    fields.choose("model", dict.fromkeys(REMBG_MODELS), None)
    matting, clean = fields.flag("a", REMBG_FLAGS), fields.flag("dc", REMBG_FLAGS)
    mask_only = fields.flag("om", REMBG_FLAGS)
    background = fields.parse("bgc", _four_numbers, None)
    # Checked, and without effect.
    fields.flag("ppm", REMBG_FLAGS)
    for name, most in (("af", 255), ("ab", 255), ("ae", 1_000_000)):
        fields.number(name, 0, most, 0)
    return Options(
        tier=tiers["rembg-a" if matting else "rembg-dc" if clean else "rembg"],
        mask_only=mask_only,
        background=None if mask_only else background,
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


def _four_numbers(text: str) -> Colour | None:
    """Parse "red,green,blue,opacity"; None if nothing of the colour is seen."""
    parts = [one.strip() for one in text.split(",")]
    if len(parts) not in (3, 4) or not all(re.fullmatch("[0-9]{1,3}", one) for one in parts):
        raise InvalidOptions(
            f"{text!r} is not a colour. Send red, green, blue and opacity, such as 255,255,255,255."
        )
    red, green, blue, opacity = (*map(int, parts), 255)[:4]
    if max(red, green, blue, opacity) > 255:
        raise InvalidOptions(f"{text!r} is not a colour. Each number is from 0 to 255.")
    if opacity == 0:
        return None
    return (red, green, blue) if opacity == 255 else (red, green, blue, opacity)


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
