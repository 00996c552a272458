"""What stands behind the subject: a colour, a gradient, a picture, or the photo's own background, blurred."""

import hashlib
import re
from dataclasses import dataclass, field

from PIL import ImageColor

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.types import Colour

PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")
FUNCTION = re.compile(r"(gradient|blur)(?:\s*\((.*)\))?", re.IGNORECASE)
RGBA = re.compile(
    r"rgba\(\s*(\d+\s*,\s*\d+\s*,\s*\d+)\s*,\s*(\d{1,3}(?:\.\d{1,6})?|\.\d{1,6})(%?)\s*\)", re.IGNORECASE
)
ANGLE = re.compile(r"(-?\d{1,3}(?:\.\d{1,3})?)(?:deg)?")
# In percent of the photo's longer side.
SMALLEST_BLUR, USUAL_BLUR, LARGEST_BLUR = 0.2, 2.0, 20.0


@dataclass(frozen=True)
class Gradient:
    """A linear gradient; `degrees` is its direction as in CSS: 180 is from top to bottom, 90 from left to right."""

    first: Colour
    last: Colour
    degrees: float = 180.0


@dataclass(frozen=True)
class BlurredPhoto:
    """The photo's own background, blurred without the subject. `blur_percent` is of the photo's longer side."""

    blur_percent: float = USUAL_BLUR


@dataclass(frozen=True)
class Picture:
    """A picture file that comes with the options. `sha256` names its bytes, which a job's row does not hold.

    As a background, it is centred and covers the canvas.
    """

    sha256: str
    data: bytes = field(default=b"", repr=False, compare=False)

    @classmethod
    def of(cls, data: bytes) -> "Picture":
        return cls(hashlib.sha256(data).hexdigest(), data)


Background = Colour | Gradient | BlurredPhoto | Picture


def parse_background(text: str) -> Background:
    """Parse a colour (see `parse_colour`), "gradient(white, #dddddd)", "gradient(white, navy, 90)" or "blur", "blur(3)".

    Raises:
        InvalidOptions: the text is none of these.

    """
    found = FUNCTION.fullmatch(text.strip())
    if found is None:
        return parse_colour(text)
    if found[1].lower() == "blur":
        return BlurredPhoto(_parse_blur(found[2]))
    arguments = [one.strip() for one in _split(found[2] or "")]
    if not 2 <= len(arguments) <= 3:
        raise InvalidOptions(
            f"{text!r} is not a gradient. Write two colours, and an angle if you like: gradient(white, #dddddd, 90)."
        )
    degrees = ANGLE.fullmatch(arguments[2]) if len(arguments) == 3 else None
    if len(arguments) == 3 and degrees is None:
        raise InvalidOptions(f"{arguments[2]!r} is not an angle. Write degrees, such as 90.")
    first, last = map(parse_colour, arguments[:2])
    if len(first) == 4 or len(last) == 4:
        raise InvalidOptions(f"{text!r} is translucent. Give a gradient two opaque colours.")
    return Gradient(first, last, float(degrees[1]) if degrees else 180.0)


def parse_colour(text: str) -> Colour:
    """Parse a colour in CSS notation ("white", "#fff", "#ffffff80", "rgba(255,255,255,0.5)"), or as hex without the #.

    Return red, green and blue, and opacity if it is not 255; all are 0…255.

    Raises:
        InvalidOptions: the text is not a colour.

    """
    if (css := RGBA.fullmatch(text.strip())) is not None:
        text = f"rgba({css[1]},{_level(css[2], css[3])})"
    for candidate in (text, f"#{text}"):
        try:
            red, green, blue, *opacity = ImageColor.getrgb(candidate.strip())
        except ValueError:
            continue
        percents = map(float, PERCENT.findall(candidate))
        if (
            max(red, green, blue, *opacity) > 255
            or min(red, green, blue, *opacity) < 0
            or max(percents, default=0) > 100
        ):
            break  # Pillow accepts rgb(999,0,0) as it is, and reads hsl(0,200%,0%) as black
        return (red, green, blue) if opacity in ([], [255]) else (red, green, blue, opacity[0])
    raise InvalidOptions(f"{text!r} is not a colour. Write a name such as white, or hex such as #ffffff.")


def _level(opacity: str, percent: str) -> int:
    """Return an opacity as a level of 0…255: CSS has 0…1 or percent, Pillow 0…255."""
    value = float(opacity)
    if percent:
        return round(255 * value / 100)
    return round(255 * value) if value <= 1 else round(value)


def _parse_blur(text: str | None) -> float:
    if not text:
        return USUAL_BLUR
    found = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,3})?)\s*%?\s*", text)
    if found is None or not SMALLEST_BLUR <= float(found[1]) <= LARGEST_BLUR:
        raise InvalidOptions(
            f"{text!r} is not a blur. Write percent of the photo's longer side, from {SMALLEST_BLUR:g} to {LARGEST_BLUR:g}, such as blur(2)."
        )
    return float(found[1])


def _split(text: str) -> list[str]:
    """Split at the commas that are outside of parentheses."""
    return re.split(r",(?![^(]*\))", text)
