"""Option values as a caller writes them. The HTTP API, the command line and the Python library share this definition."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

from cutout.inference.errors import InvalidBackground, InvalidOptions, InvalidPhoto
from cutout.inference.imaging import decode
from cutout.inference.imaging.backgrounds import Background, Picture, parse_background
from cutout.inference.imaging.encode import Format, check_size
from cutout.inference.imaging.geometry import (
    NO_MARGIN,
    Layout,
    parse_canvas,
    parse_margin,
    parse_position,
    parse_region,
    parse_scale,
)
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

# "jpeg" is "jpg"; "mask" is the mask alone, as a PNG.
FormatName = Literal["png", "webp", "jpg", "jpeg", "avif", "gif", "auto", "zip", "mask"]
FORMATS: dict[str, Format] = {
    **{one.value: one for one in Format},
    "jpeg": Format.JPG,
    "mask": Format.PNG,
}
ShadowName = Literal["none", "soft"]
HolesName = Literal["keep", "fill"]
AnimationName = Literal["first", "all"]
# In percent: the opacity of a shadow, the quality of a lossy format.
USUAL_OPACITY, USUAL_QUALITY = 35.0, 90
# As a background, these stand for none, whatever the preset says.
NO_BACKGROUND = ("none", "transparent")
LEAST_MEGAPIXELS, MOST_MEGAPIXELS = 0.01, 1000.0

Choice = TypeVar("Choice", bound=str)


@dataclass(frozen=True)
class OptionValues:
    """The values that a caller gave, as text, numbers and flags; None where they gave none.

    - `tier`, `format`, `mask_only`: the tier, the file format (see `FormatName`), and whether only the mask is wanted.
    - `background`: text for `parse_background`, or "none"; `background_image`: a picture file instead, its bytes.
    - `quality`: 1…100.
    - `trim`, `margin`, `scale`, `position`, `canvas`, `roi`: the layout, as text for the parsers in `geometry`.
    - `box`, `keep`, `drop`: which subject is meant, as text for the parsers in `hints`; `largest_only`: see `Hints`.
    - `keep_mask`, `drop_mask`: files of pictures with strokes, white on black; `holes`: "keep" or "fill";
      `min_coverage`: 0…100 percent; `within`: as `box`: see `Hints`.
    - `shadow`: "none" or "soft"; `shadow_opacity`: 0…100 percent.
    - `keep_shadow`, `keep_profile`, `require_subject`: see `Options`.
    - `animation`: "first" or "all": which frames of an animation are cut out.
    - `max_megapixels`: a larger photo is scaled down to this size before any work.
    - `preset`: the name of a preset, whose values count where the caller gave none.
    """

    tier: str | None = None
    format: str | None = None
    mask_only: bool | None = None
    background: str | None = None
    background_image: bytes | Picture | None = field(default=None, repr=False)
    quality: int | None = None
    trim: bool | None = None
    margin: str | None = None
    scale: str | None = None
    position: str | None = None
    canvas: str | None = None
    roi: str | None = None
    box: str | None = None
    keep: str | None = None
    drop: str | None = None
    largest_only: bool | None = None
    keep_mask: bytes | Picture | None = field(default=None, repr=False)
    drop_mask: bytes | Picture | None = field(default=None, repr=False)
    holes: str | None = None
    min_coverage: float | None = None
    within: str | None = None
    shadow: str | None = None
    shadow_opacity: float | None = None
    keep_shadow: bool | None = None
    keep_profile: bool | None = None
    require_subject: bool | None = None
    max_megapixels: float | None = None
    animation: str | None = None
    preset: str | None = None

    @property
    def wants_mask(self) -> bool:
        """Whether only the mask is wanted."""
        return bool(self.mask_only) or self.format == "mask"

    def over(self, others: "OptionValues") -> "OptionValues":
        """Return these values, and those of `others` where this one has none."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        return replace(others, **given)


def parse_background_or_none(text: str) -> Background | None:
    """Parse a background; "none" and "transparent" are None.

    Raises:
        InvalidOptions: the text is neither.

    """
    return None if text.strip().lower() in NO_BACKGROUND else parse_background(text)


# How the text of each option is parsed; a parser raises InvalidOptions.
PARSERS: dict[str, Callable[[str], Any]] = {
    "background": parse_background_or_none,
    "margin": parse_margin,
    "scale": parse_scale,
    "position": parse_position,
    "canvas": parse_canvas,
    "roi": parse_region,
    "box": parse_box,
    "keep": parse_points,
    "drop": parse_points,
    "within": parse_box,
}


def to_options(
    values: OptionValues, named: Callable[[str], str] = str, sizes: SizeLimits = DEFAULT_SIZES
) -> Options:
    """Return the options that the values describe, checked; a preset must have been applied before.

    `named` returns the name that the caller knows an option by, for messages. `sizes` limits pictures and the canvas.

    Raises:
        InvalidOptions: a value cannot be used, or has no effect beside the others; the message names the option.
        InvalidBackground: the picture for the background cannot be read.

    """
    options = read_options(values, named, sizes)
    check_options(options, sizes)
    return options


def read_options(
    values: OptionValues, named: Callable[[str], str] = str, sizes: SizeLimits = DEFAULT_SIZES
) -> Options:
    """Return the options that the values describe as `to_options` does, without a look at whether they go together.

    Raises:
        InvalidOptions: a value cannot be used by itself; the message names the option.
        InvalidBackground: the picture for the background cannot be read.

    """
    read = _Reader(values, named)
    if values.background is not None and values.background_image is not None:
        raise InvalidOptions(f"Give only one of {named('background')} and {named('background_image')}.")
    megapixels = read.number("max_megapixels", LEAST_MEGAPIXELS, MOST_MEGAPIXELS)
    background: Background | None = read.text("background")
    all_frames = read.one_of("animation", get_args(AnimationName)) == "all"
    usual_format = "webp" if all_frames else "png"
    if values.background_image is not None:
        background = as_background(values.background_image, named("background_image"), sizes)
    return Options(
        tier=Tier(read.one_of("tier", tuple(Tier)) or Tier.BASIC),
        format=FORMATS[read.one_of("format", get_args(FormatName)) or usual_format],
        mask_only=bool(read.flag("mask_only")) or values.format == "mask",
        background=background,
        quality=int(read.number("quality", 1, 100, whole=True) or USUAL_QUALITY),
        layout=Layout(
            trim=bool(read.flag("trim")),
            margin=read.text("margin") or NO_MARGIN,
            scale=read.text("scale"),
            position=read.text("position"),
            canvas=read.text("canvas"),
            region=read.text("roi"),
            max_pixels=None if megapixels is None else round(megapixels * 1_000_000),
        ),
        shadow=_shadow(read),
        keep_shadow=bool(read.flag("keep_shadow")),
        keep_profile=bool(read.flag("keep_profile")),
        require_subject=bool(read.flag("require_subject")),
        all_frames=all_frames,
        hints=Hints(
            box=read.text("box"),
            keep=read.text("keep") or (),
            drop=read.text("drop") or (),
            largest_only=bool(read.flag("largest_only")),
            keep_mask=_strokes(values.keep_mask, named("keep_mask"), sizes),
            drop_mask=_strokes(values.drop_mask, named("drop_mask"), sizes),
            fill_holes=read.one_of("holes", get_args(HolesName)) == "fill",
            min_coverage=(read.number("min_coverage", 0, 100) or 0.0) / 100,
            within=read.text("within"),
        ),
    )


def check_options(options: Options, sizes: SizeLimits = DEFAULT_SIZES) -> None:
    """Check that the options go together, and that their canvas is within `sizes` and what the format can hold.

    Raises:
        InvalidOptions: they do not, or it is not.

    """
    options.check()
    if options.layout.canvas is not None:
        sizes.check_result(*options.layout.canvas)
        check_size(options.format, *options.layout.canvas)


def as_strokes(data: bytes | Picture, name: str, sizes: SizeLimits = DEFAULT_SIZES) -> Picture:
    """Return a picture file of strokes, after a look at its header; `name` is the option's, for messages.

    Raises:
        InvalidOptions: the bytes are not a picture, or one that is too large.

    """
    return _as_picture(data, name, sizes, InvalidOptions)


def as_background(data: bytes | Picture, name: str, sizes: SizeLimits = DEFAULT_SIZES) -> Picture:
    """Return a picture file as a background, after a look at its header; `name` is the option's, for messages.

    A file that is damaged behind its header is found when a photo is put on it.

    Raises:
        InvalidBackground: the bytes are not a picture, or one that is too large.

    """
    return _as_picture(data, name, sizes, InvalidBackground)


def _as_picture(
    data: bytes | Picture, name: str, sizes: SizeLimits, refusal: type[InvalidOptions]
) -> Picture:
    if isinstance(data, Picture):
        return data
    try:
        decode.read_size(data, sizes)
    except InvalidPhoto as error:
        raise refusal(f"{name}: {error}") from None
    return Picture.of(data)


def _strokes(data: bytes | Picture | None, name: str, sizes: SizeLimits) -> Picture | None:
    return None if data is None else as_strokes(data, name, sizes)


def _shadow(read: "_Reader") -> float:
    kind, opacity = read.one_of("shadow", get_args(ShadowName)), read.number("shadow_opacity", 0, 100)
    if kind is None and opacity is not None:
        raise InvalidOptions(
            f"{read.named('shadow_opacity')}: has no effect without a shadow. Add {read.named('shadow')} soft."
        )
    if kind != "soft":
        return 0.0
    return (USUAL_OPACITY if opacity is None else opacity) / 100


class _Reader:
    """Reads values of the right type; its errors name the option."""

    def __init__(self, values: OptionValues, named: Callable[[str], str]) -> None:
        self.named = named
        self._values = values

    def text(self, name: str) -> Any:
        value = self._value(name, str, "text")
        try:
            return None if value is None else PARSERS[name](value)
        except InvalidOptions as error:
            raise InvalidOptions(f"{self.named(name)}: {error}") from None

    def one_of(self, name: str, choices: tuple[Choice, ...]) -> Choice | None:
        value = getattr(self._values, name)
        if value is None:
            return None
        found = next((choice for choice in choices if choice == value), None)
        if found is None:
            raise InvalidOptions(
                f"{self.named(name)}: {value!r} is not a {name}. Choose one of: {', '.join(choices)}."
            )
        return found

    def flag(self, name: str) -> bool | None:
        value: bool | None = self._value(name, bool, "true or false")
        return value

    def number(self, name: str, least: float, most: float, *, whole: bool = False) -> float | None:
        value = getattr(self._values, name)
        if value is None:
            return None
        is_number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            kind = "whole number" if whole else "number"
            raise InvalidOptions(f"{self.named(name)}: {value!r} is not a {kind} from {least:g} to {most:g}.")
        return float(value)

    def _value(self, name: str, kind: type, wanted: str) -> Any:
        value = getattr(self._values, name)
        if value is not None and not isinstance(value, kind):
            raise InvalidOptions(f"{self.named(name)}: {value!r} is not {wanted}.")
        return value
