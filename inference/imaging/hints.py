"""Hints of a caller that say which subject of a photo is meant. Nothing here needs pixels."""

from dataclasses import dataclass, replace

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.geometry import Box, Length, Region, parse_length
from cutout.inference.imaging.strokes import Strokes, check_apart

MOST_POINTS = 100
# Enough for as many points with every decimal that a length may have.
LONGEST_POINTS = 4000
LONGEST_WORD = 20
# Margin around a subject, as a share of its longer side, so that the network sees some of the background.
MARGIN = 0.15

# Cells a side on which is looked whether a stroke is inside of a box. A stroke is found however thin it is.
LOOKED_AT = 64

# Across and down, as shares of a picture's width and height.
Spot = tuple[float, float]


@dataclass(frozen=True)
class Point:
    """A point of a photo, from its left and its top."""

    x: Length
    y: Length

    def on(self, width: int, height: int) -> Spot:
        """Return where the point is on a photo of this size.

        Raises:
            InvalidOptions: it is beyond the photo.

        """
        across, down = self.x.of(width), self.y.of(height)
        if across > width or down > height:
            raise InvalidOptions(
                f"The point {self} is beyond the photo, which has {width} × {height} pixels. Give a point within the"
                " photo, or one in percent."
            )
        return across / width, down / height

    def __str__(self) -> str:
        return f"{self.x.value:g}{self.x.unit} {self.y.value:g}{self.y.unit}"


@dataclass(frozen=True)
class Hints:
    """Which subject of a photo is meant, in lengths of the photo as it was sent, upright.

    - `box`: the subject is inside of it; all else is background.
    - `keep`, `drop`: points on the connected parts of the subject that stay or go. With points to keep, all other parts go.
    - `keep_mask`, `drop_mask`: pictures of strokes, white on black, stretched to the photo; see `matting.parts`.
    - `largest_only`: only the largest connected part stays.
    - `fill_holes`: holes that the subject encloses become part of it.
    - `min_coverage`: a subject that takes less than this share of what is searched, 0…1, counts as none.
    - `within`: what is outside of it is background, whatever else is meant; the network is shown the photo all the same.
    """

    box: Region | None = None
    keep: tuple[Point, ...] = ()
    drop: tuple[Point, ...] = ()
    largest_only: bool = False
    keep_mask: Picture | None = None
    drop_mask: Picture | None = None
    fill_holes: bool = False
    min_coverage: float = 0.0
    within: Region | None = None

    def check(self) -> None:
        """Check what no photo is needed for.

        Raises:
            InvalidOptions: two hints contradict each other.

        """
        for point in self.keep:
            if point in self.drop:
                raise InvalidOptions(
                    f"The point {point} is both to keep and to drop. Give it for one of the two."
                )
        if self.keep and self.largest_only:
            raise InvalidOptions(
                "Points to keep say which parts stay, and so does the largest part. Give only one of the two."
            )
        if self.keep_mask is not None and self.largest_only:
            raise InvalidOptions(
                "Strokes to keep say which parts stay, and so does the largest part. Give only one of the two."
            )
        if self.keep_mask is not None and self.keep_mask == self.drop_mask:
            raise InvalidOptions("The strokes to keep and those to drop are the same picture. Leave one out.")

    def on(
        self,
        width: int,
        height: int,
        part: Box,
        keep_strokes: Strokes | None = None,
        drop_strokes: Strokes | None = None,
    ) -> "Marks":
        """Return the hints for a photo of this size, of which only `part` is searched; the strokes are those of the masks.

        Raises:
            InvalidOptions: a hint is beyond the photo, or contradicts another one or the part that is searched.

        """
        box = None if self.box is None else _box_in(self.box, width, height, part)
        within = None if self.within is None else _box_in(self.within, width, height, part)
        inside, name = (part, "the region") if box is None else (box, "the box")
        keep = tuple(point.on(width, height) for point in self.keep)
        drop = tuple(point.on(width, height) for point in self.drop)
        for point, spot in zip(self.keep, keep, strict=True):
            x, y = point.x.of(width), point.y.of(height)
            if not (inside.left <= x <= inside.right and inside.top <= y <= inside.bottom):
                raise InvalidOptions(
                    f"The point {point} to keep is outside of {name}, and so background. Move one of them."
                )
            if spot in drop:
                raise InvalidOptions(
                    f"The point {point} is both to keep and to drop. Give it for one of the two."
                )
        if keep_strokes is not None:
            seen = keep_strokes.seen(*_shares_of(inside, width, height))
            if not seen.shares(LOOKED_AT, LOOKED_AT, LOOKED_AT, LOOKED_AT).any():
                raise InvalidOptions(
                    f"The strokes to keep are outside of {name}, and so background. Move one of them."
                )
            if drop_strokes is not None:
                check_apart(keep_strokes, drop_strokes)
        strokes = keep_strokes, drop_strokes
        return Marks(part, box, keep, drop, self.largest_only, *strokes, self.fill_holes, within)


NO_HINTS = Hints()


@dataclass(frozen=True)
class Aim:
    """The hints for what the network is shown, a photo or a crop of one; see `Hints`.

    Spots may lie outside of it. `box` is left, top, right and bottom, as shares of its width and height.
    """

    keep: tuple[Spot, ...] = ()
    drop: tuple[Spot, ...] = ()
    largest_only: bool = False
    box: tuple[float, float, float, float] | None = None
    keep_strokes: Strokes | None = None
    drop_strokes: Strokes | None = None
    fill_holes: bool = False


@dataclass(frozen=True)
class Marks:
    """The hints for one photo: boxes in its pixels, and spots on it. `part` is what is searched; `box` and `within` lie in it."""

    part: Box
    box: Box | None
    keep: tuple[Spot, ...]
    drop: tuple[Spot, ...]
    largest_only: bool
    keep_strokes: Strokes | None = None
    drop_strokes: Strokes | None = None
    fill_holes: bool = False
    within: Box | None = None

    def rescaled(self, width: int, height: int, new_width: int, new_height: int) -> "Marks":
        """Return the marks for the photo, of width × height pixels, scaled to another size."""
        size = width, height, new_width, new_height
        part = self.part.rescaled(*size)
        # They were in it, but for rounding.
        box, within = (
            None if one is None else one.rescaled(*size).within(part) for one in (self.box, self.within)
        )
        return replace(self, part=part, box=box, within=within)

    @property
    def view(self) -> Box:
        """What the network is shown: the box with a margin, as far as it is searched; else all that is searched."""
        if self.box is None:
            return self.part
        margin = round(MARGIN * max(self.box.width, self.box.height))
        width, height = self.box.width + 2 * margin, self.box.height + 2 * margin
        return Box(self.box.left - margin, self.box.top - margin, width, height).within(self.part)

    def aim(self, width: int, height: int) -> Aim:
        """Return the hints for the view, of a photo of this size."""
        view, box = self.view, self.box

        def seen(spots: tuple[Spot, ...]) -> tuple[Spot, ...]:
            return tuple(
                ((across * width - view.left) / view.width, (down * height - view.top) / view.height)
                for across, down in spots
            )

        edges = None
        if box is not None:
            edges = (
                (box.left - view.left) / view.width,
                (box.top - view.top) / view.height,
                (box.right - view.left) / view.width,
                (box.bottom - view.top) / view.height,
            )
        keep, drop = (
            None if one is None else one.seen(*_shares_of(view, width, height))
            for one in (self.keep_strokes, self.drop_strokes)
        )
        return Aim(seen(self.keep), seen(self.drop), self.largest_only, edges, keep, drop, self.fill_holes)


def _shares_of(box: Box, width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of a box as shares of a picture's width and height."""
    return box.left / width, box.top / height, box.right / width, box.bottom / height


def parse_box(text: str) -> Region:
    """Parse left, top, right and bottom of a box, in pixels or percent of the photo, such as "10% 0 90% 100%".

    Raises:
        InvalidOptions: the text is no box, or one that has no pixels.

    """
    words = _words(text)
    if len(words) != 4:
        raise InvalidOptions(
            f"{_short(text)!r} is not a box. Write left, top, right and bottom, such as 10% 0% 90% 100% or"
            " 0px 0px 400px 300px."
        )
    left, top, right, bottom = (parse_length(word) for word in words)
    for near, far in ((left, right), (top, bottom)):
        if near.unit is far.unit and near.value >= far.value:
            raise InvalidOptions(
                f"{_short(text)!r} has no pixels. Write left, top, right and bottom, each further than the one opposite."
            )
    return Region(left, top, right, bottom)


def parse_points(text: str) -> tuple[Point, ...]:
    """Parse points, each across and down in pixels or percent of the photo, such as "120px 80px, 50% 50%".

    Raises:
        InvalidOptions: the text is no list of points, or one of more than 100.

    """
    words = _words(text)
    if not words or len(words) % 2:
        raise InvalidOptions(
            f"{_short(text)!r} is not a list of points. Write two lengths for each, across and down, such as"
            " 120px 80px, 50% 50%."
        )
    if len(words) > 2 * MOST_POINTS:
        raise InvalidOptions(f"There are {len(words) // 2} points. Give at most {MOST_POINTS}.")
    lengths = [parse_length(word) for word in words]
    return tuple(map(Point, lengths[::2], lengths[1::2]))


def _words(text: str) -> list[str]:
    """Split a text at blanks and commas.

    Raises:
        InvalidOptions: the text or a word of it is too long; messages would repeat it.

    """
    if len(text) > LONGEST_POINTS:
        raise InvalidOptions(f"The text has more than {LONGEST_POINTS} characters. Give fewer points.")
    words = text.replace(",", " ").split()
    for word in words:
        if len(word) > LONGEST_WORD:
            raise InvalidOptions(
                f"{_short(word)!r} is not a length. Write pixels, such as 30px, or percent, such as 10%."
            )
    return words


def _short(text: str) -> str:
    return text if len(text) <= 2 * LONGEST_WORD else text[: 2 * LONGEST_WORD] + "…"


def _box_in(region: Region, width: int, height: int, part: Box) -> Box:
    """Return the box in whole pixels, as far as it is searched.

    Raises:
        InvalidOptions: it has no pixels, reaches beyond the photo, or lies outside of what is searched.

    """
    left, top, right, bottom = region.edges(width, height)
    if right > width or bottom > height:
        raise InvalidOptions(
            f"The box ends at {right} × {bottom}, and the photo has {width} × {height} pixels. Give a box within the"
            " photo, or one in percent."
        )
    if right <= left or bottom <= top:
        raise InvalidOptions(
            "The box has no pixels. Give its left, top, right and bottom, each further than the one opposite."
        )
    left, top = max(left, part.left), max(top, part.top)
    right, bottom = min(right, part.right), min(bottom, part.bottom)
    if right <= left or bottom <= top:
        raise InvalidOptions(
            "The box and the region have no pixels in common. Move one of them, or leave it out."
        )
    return Box(left, top, right - left, bottom - top)
