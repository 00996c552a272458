"""The layout of a result: where the subject stands, and on how large a canvas. Nothing here needs pixels.

Two boxes decide: the subject's box in the photo, and the canvas. `place` computes from them the size and the position
of the subject in the result.
"""

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from cutout.inference.errors import InvalidOptions, RegionEmpty, RegionOutside

NUMBER = re.compile(r"(\d{1,6}(?:\.\d{1,6})?|\.\d{1,6})(px|%)?")
# The largest margin of each unit. A margin of half the subject makes the result four times as large.
MOST_MARGIN = {"px": 5000.0, "%": 100.0}
LARGEST_CANVAS_SIDE = 32_768
CANVAS = re.compile(r"(\d{1,5})\s*[x×*,]\s*(\d{1,5})")
NAMED_POSITIONS = {"left": 0.0, "top": 0.0, "center": 0.5, "centre": 0.5, "right": 1.0, "bottom": 1.0}


class Unit(StrEnum):
    """The unit of a length."""

    PIXELS = "px"
    PERCENT = "%"


@dataclass(frozen=True)
class Length:
    """A length in pixels, or in percent of a side that the option names."""

    value: float
    unit: Unit = Unit.PIXELS

    def of(self, side: int) -> float:
        """Return the length in pixels; percents are of `side` pixels."""
        return self.value if self.unit is Unit.PIXELS else side * self.value / 100

    def scaled(self, factor: float) -> "Length":
        """Return the length on a picture scaled by this factor."""
        return replace(self, value=self.value * factor) if self.unit is Unit.PIXELS else self


ZERO = Length(0.0)


@dataclass(frozen=True)
class Margin:
    """A margin on each side."""

    top: Length = ZERO
    right: Length = ZERO
    bottom: Length = ZERO
    left: Length = ZERO

    def scaled(self, factor: float) -> "Margin":
        """Return the margin on a picture scaled by this factor."""
        sides = (self.top, self.right, self.bottom, self.left)
        return Margin(*(side.scaled(factor) for side in sides))


NO_MARGIN = Margin()


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels; `left` and `top` are the first column and row in it."""

    left: int
    top: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """The first column behind it."""
        return self.left + self.width

    @property
    def bottom(self) -> int:
        """The first row below it."""
        return self.top + self.height

    @property
    def rows(self) -> slice:
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        return slice(self.left, self.right)

    def rescaled(self, width: int, height: int, new_width: int, new_height: int) -> "Box":
        """Return the box of a photo, of width × height pixels, in it scaled to another size, with at least one pixel."""
        across, down = new_width / width, new_height / height
        left = min(new_width - 1, round(self.left * across))
        top = min(new_height - 1, round(self.top * down))
        right, bottom = round(self.right * across), round(self.bottom * down)
        return Box(left, top, max(1, right - left), max(1, bottom - top))

    def within(self, outer: "Box") -> "Box":
        """Return the part of the box that lies in another one; at least one pixel at its edge."""
        left, top = (
            min(outer.right - 1, max(outer.left, self.left)),
            min(outer.bottom - 1, max(outer.top, self.top)),
        )
        right, bottom = min(outer.right, self.right), min(outer.bottom, self.bottom)
        return Box(left, top, max(1, right - left), max(1, bottom - top))

    def shared(self, other: "Box") -> "Box | None":
        """Return the part that two boxes have in common; None if they have none."""
        left, top = max(self.left, other.left), max(self.top, other.top)
        width, height = min(self.right, other.right) - left, min(self.bottom, other.bottom) - top
        return Box(left, top, width, height) if width > 0 and height > 0 else None

    def inside(self, outer: "Box") -> "Box":
        """Return the box counted from the corner of one that it lies in."""
        return Box(self.left - outer.left, self.top - outer.top, self.width, self.height)


@dataclass(frozen=True)
class Region:
    """The part of a photo in which the subject is; everything outside it is background."""

    left: Length
    top: Length
    right: Length
    bottom: Length

    def edges(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom in a photo of this size, in whole pixels, which may be beyond it."""
        across, down = (self.left, self.right), (self.top, self.bottom)
        left, right = (round(edge.of(width)) for edge in across)
        top, bottom = (round(edge.of(height)) for edge in down)
        return left, top, right, bottom

    def box(self, width: int, height: int) -> Box:
        """Return the region of a photo of this size, in whole pixels.

        Raises:
            RegionOutside: it reaches beyond the photo.
            RegionEmpty: it has no pixels.

        """
        left, top, right, bottom = self.edges(width, height)
        if right > width or bottom > height:
            raise RegionOutside(
                f"The region ends at {right} × {bottom}, and the photo has {width} × {height} pixels. Give a region"
                " within the photo, or one in percent."
            )
        if right <= left or bottom <= top:
            raise RegionEmpty(
                "The region has no pixels. Give its left, top, right and bottom, each further than the one opposite."
            )
        return Box(left, top, right - left, bottom - top)


def shrunk(width: int, height: int, most_pixels: int) -> tuple[int, int]:
    """Return the width and height of a picture that is scaled down to at most so many pixels, if it has more."""
    if width * height <= most_pixels:
        return width, height
    factor = (most_pixels / (width * height)) ** 0.5
    return max(1, int(width * factor)), max(1, int(height * factor))


@dataclass(frozen=True)
class Layout:
    """Where the subject stands in the result.

    - `trim`: cut the result to the subject's box, plus `margin`, in percent of the subject's own width and height.
    - `canvas`: width and height of the result in pixels. The subject is scaled to fill it inside of `margin`, in percent
      of the canvas. Without `trim` and `canvas`, the result has the photo's size.
    - `scale`: the share of the result's width and height, 0…1, that the subject fits in.
    - `position`: 0 (left, top) … 1 (right, bottom) of the free space; None: the middle, or with neither `scale` nor
      `canvas` where the subject is.
    - `region`: the part of the photo in which the subject is.
    - `max_pixels`: a larger photo is scaled down to this many pixels before any work.
    """

    trim: bool = False
    margin: Margin = NO_MARGIN
    scale: float | None = None
    position: tuple[float, float] | None = None
    canvas: tuple[int, int] | None = None
    region: Region | None = None
    max_pixels: int | None = None

    @property
    def moves(self) -> bool:
        """Whether the result is anything other than the subject in its place in the photo."""
        return self.trim or self.canvas is not None or self.scale is not None or self.position is not None

    def within(self, pixels: int) -> "Layout":
        """Return the layout for a photo and a canvas of at most so many pixels. A larger canvas shrinks as a whole, with
        its margin.
        """
        layout = replace(self, max_pixels=min(pixels, self.max_pixels or pixels))
        if self.canvas is None or self.canvas[0] * self.canvas[1] <= pixels:
            return layout
        canvas = shrunk(*self.canvas, pixels)
        return replace(layout, canvas=canvas, margin=self.margin.scaled(canvas[0] / self.canvas[0]))


AS_IN_PHOTO = Layout()


@dataclass(frozen=True)
class Placement:
    """The size of the canvas, and the box on it that the subject is scaled to."""

    width: int
    height: int
    subject: Box


def place(subject: Box, photo_width: int, photo_height: int, layout: Layout) -> Placement:
    """Compute the canvas, and the box on it of a subject with this box in its photo.

    The subject keeps its proportions within the rounding to whole pixels, and no part of it is outside the canvas.
    """
    if layout.canvas is not None:
        width, height = layout.canvas
        top, right, bottom, left = _margins(layout.margin, width, height)
        # A margin never takes the subject's last pixel.
        left, top = min(left, width - 1), min(top, height - 1)
        inner_width, inner_height = max(1, width - left - right), max(1, height - top - bottom)
    elif layout.trim:
        top, right, bottom, left = _margins(layout.margin, subject.width, subject.height)
        width, height = left + subject.width + right, top + subject.height + bottom
        inner_width, inner_height = subject.width, subject.height
    else:
        left = top = 0
        width, height = inner_width, inner_height = photo_width, photo_height

    if layout.scale is not None:
        fits = min(layout.scale * width, inner_width), min(layout.scale * height, inner_height)
        factor = min(fits[0] / subject.width, fits[1] / subject.height)
    elif layout.canvas is not None:
        factor = min(inner_width / subject.width, inner_height / subject.height)
    else:
        factor = 1.0
    placed_width = min(inner_width, max(1, round(subject.width * factor)))
    placed_height = min(inner_height, max(1, round(subject.height * factor)))

    position = layout.position
    if position is None and (layout.scale is not None or layout.canvas is not None):
        position = (0.5, 0.5)
    if position is not None:
        left += round((inner_width - placed_width) * position[0])
        top += round((inner_height - placed_height) * position[1])
    elif not layout.trim:
        left, top = subject.left, subject.top
    return Placement(width, height, Box(left, top, placed_width, placed_height))


def _margins(margin: Margin, width: int, height: int) -> tuple[int, int, int, int]:
    return (
        round(margin.top.of(height)),
        round(margin.right.of(width)),
        round(margin.bottom.of(height)),
        round(margin.left.of(width)),
    )


def parse_length(text: str) -> Length:
    """Parse "10px", "10%" or "10", which is pixels.

    Raises:
        InvalidOptions: the text is no length.

    """
    found = NUMBER.fullmatch(text.strip())
    if found is None:
        raise InvalidOptions(
            f"{text!r} is not a length. Write pixels, such as 30px, or percent, such as 10%."
        )
    return Length(float(found[1]), Unit(found[2] or "px"))


def parse_margin(text: str) -> Margin:
    """Parse a margin as CSS writes it: one length, two (top and bottom, left and right) or four (clockwise from the top).

    Raises:
        InvalidOptions: the text is no margin, or one side is larger than 5000 pixels or 100 %.

    """
    sides = [parse_length(one) for one in text.replace(",", " ").split()]
    for side in sides:
        if side.value > MOST_MARGIN[side.unit]:
            raise InvalidOptions(
                f"{text!r} is too large. A margin has at most {MOST_MARGIN['px']:g} pixels or {MOST_MARGIN['%']:g} % a side."
            )
    match sides:
        case [every]:
            return Margin(every, every, every, every)
        case [ends, flanks]:
            return Margin(ends, flanks, ends, flanks)
        case [top, right, bottom, left]:
            return Margin(top, right, bottom, left)
    raise InvalidOptions(
        f"{text!r} is not a margin. Write one, two or four lengths, such as 10% or 10px 20px."
    )


def parse_scale(text: str) -> float | None:
    """Parse a share of 1 to 100 percent, such as "80%"; "original" is None.

    Raises:
        InvalidOptions: the text is no such share.

    """
    if text.strip().lower() == "original":
        return None
    found = NUMBER.fullmatch(text.strip())
    if found is None or found[2] == "px" or not 1 <= float(found[1]) <= 100:
        raise InvalidOptions(f"{text!r} is not a scale. Write original, or percent from 1% to 100%.")
    return float(found[1]) / 100


def parse_position(text: str) -> tuple[float, float] | None:
    """Parse a position across and down: names ("center", "right bottom") or percent ("50% 100%"); one stands for both.

    "original" is None.

    Raises:
        InvalidOptions: the text is no position.

    """
    words = text.lower().replace(",", " ").split()
    if words == ["original"]:
        return None
    if words and words[0] in ("top", "bottom"):  # "bottom" alone, and "bottom left"
        words = [*(words[1:] or ["center"]), words[0]]
    elif words and words[0] in ("left", "right") and len(words) == 1:
        words = [words[0], "center"]
    places = [_parse_place(word, text) for word in words]
    if len(places) not in (1, 2):
        raise _no_position(text)
    return places[0], places[-1]


def parse_canvas(text: str) -> tuple[int, int] | None:
    """Parse width and height in pixels, such as "2000x1500"; one number is a square. "original" is None.

    Raises:
        InvalidOptions: the text is no size, or a side has no pixels or more than 32,768.

    """
    stripped = text.strip().lower()
    if stripped == "original":
        return None
    found = CANVAS.fullmatch(stripped)
    sides = [stripped, stripped] if found is None else [found[1], found[2]]
    if not all(re.fullmatch(r"\d{1,5}", side) and 1 <= int(side) <= LARGEST_CANVAS_SIDE for side in sides):
        raise InvalidOptions(
            f"{text!r} is not a size. Write original, or width x height in pixels, such as 2000x2000, up to"
            f" {LARGEST_CANVAS_SIDE} a side."
        )
    return int(sides[0]), int(sides[1])


def parse_region(text: str) -> Region:
    """Parse left, top, right and bottom, in pixels or percent of the photo, such as "10% 0 90% 100%".

    Raises:
        InvalidOptions: the text is no region.

    """
    words = text.replace(",", " ").split()
    if len(words) != 4:
        raise InvalidOptions(
            f"{text!r} is not a region. Write left, top, right and bottom, such as 10% 0% 90% 100% or 0px 0px 400px 300px."
        )
    return Region(*map(parse_length, words))


def _parse_place(word: str, text: str) -> float:
    if word in NAMED_POSITIONS:
        return NAMED_POSITIONS[word]
    found = NUMBER.fullmatch(word)
    if found is None or found[2] == "px" or float(found[1]) > 100:
        raise _no_position(text)
    return float(found[1]) / 100


def _no_position(text: str) -> InvalidOptions:
    return InvalidOptions(
        f"{text!r} is not a position. Write original, center, or percent across and down, such as 50% 100%."
    )
