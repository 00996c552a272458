"""The layout: `place` against the formula of docs/pictures.md, written here a second time with exact fractions."""

import random
from dataclasses import dataclass, replace
from fractions import Fraction

import pytest

from cutout.inference.errors import InvalidOptions, RegionEmpty, RegionOutside
from cutout.inference.imaging.geometry import (
    Box,
    Layout,
    Length,
    Margin,
    Unit,
    parse_canvas,
    parse_margin,
    parse_position,
    parse_region,
    parse_scale,
    place,
)

CASES = 1000
SIDES = (1, 2, 3, 7, 40, 41, 333, 1000, 4999)
# A float has these shares exactly, so that no case is a tie in one computation and none in the other.
QUARTERS = [Fraction(quarter, 4) for quarter in range(401)]


@dataclass(frozen=True)
class Exact:
    """A placement before it is rounded to whole pixels."""

    width: Fraction
    height: Fraction
    left: Fraction
    top: Fraction
    subject_width: Fraction
    subject_height: Fraction


def exactly(subject: Box, photo_width: int, photo_height: int, layout: Layout) -> Exact:
    """Compute the formula for both axes, each on its own; only the scale joins them."""
    sizes = (subject.width, subject.height)
    photo = (photo_width, photo_height)
    before = (layout.margin.left, layout.margin.top)
    behind = (layout.margin.right, layout.margin.bottom)
    canvas, room, starts = list[int](), list[int](), list[int]()
    for axis in (0, 1):
        if layout.canvas is not None:
            whole = layout.canvas[axis]
            start = min(pixels(before[axis], whole), whole - 1)
            canvas.append(whole)
            starts.append(start)
            room.append(max(1, whole - start - pixels(behind[axis], whole)))
        elif layout.trim:
            start, end = (pixels(side[axis], sizes[axis]) for side in (before, behind))
            canvas.append(start + sizes[axis] + end)
            starts.append(start)
            room.append(sizes[axis])
        else:
            canvas.append(photo[axis])
            starts.append(0)
            room.append(photo[axis])
    if layout.scale is not None:
        share = Fraction(layout.scale)
        factor = min(min(share * canvas[axis], Fraction(room[axis])) / sizes[axis] for axis in (0, 1))
    elif layout.canvas is not None:
        factor = min(Fraction(room[axis], sizes[axis]) for axis in (0, 1))
    else:
        factor = Fraction(1)
    placed = [max(Fraction(1), sizes[axis] * factor) for axis in (0, 1)]
    is_free = layout.position is not None or layout.scale is not None or layout.canvas is not None
    position = layout.position or (0.5, 0.5)
    if is_free:
        places = [starts[axis] + (room[axis] - placed[axis]) * Fraction(position[axis]) for axis in (0, 1)]
    elif layout.trim:
        places = [Fraction(start) for start in starts]
    else:
        places = [Fraction(subject.left), Fraction(subject.top)]
    return Exact(*map(Fraction, canvas), *places, *placed)


def pixels(length: Length, side: int) -> int:
    share = Fraction(length.value) if length.unit is Unit.PIXELS else side * Fraction(length.value) / 100
    return round(share)


def any_side(random_of: random.Random) -> int:
    return random_of.choice(SIDES) if random_of.random() < 0.5 else random_of.randint(1, 3000)


def any_length(random_of: random.Random) -> Length:
    if random_of.random() < 0.5:
        return Length(float(random_of.choice(QUARTERS)), Unit.PERCENT)
    return Length(float(random_of.choice((0, 1, 5, 5000, random_of.randint(0, 300)))))


def any_case(seed: int) -> tuple[Box, int, int, Layout]:
    of = random.Random(seed)
    photo_width, photo_height = any_side(of), any_side(of)
    width = 1 if of.random() < 0.2 else of.randint(1, photo_width)
    height = 1 if of.random() < 0.2 else of.randint(1, photo_height)
    subject = Box(of.randint(0, photo_width - width), of.randint(0, photo_height - height), width, height)
    trim, canvas = of.random() < 0.4, (any_side(of), any_side(of)) if of.random() < 0.5 else None
    has_margin = (trim or canvas is not None) and of.random() < 0.7
    layout = Layout(
        trim=trim,
        margin=Margin(*(any_length(of) for _ in range(4))) if has_margin else Margin(),
        scale=of.randint(1, 100) / 100 if of.random() < 0.4 else None,
        position=(of.randint(0, 100) / 100, of.choice((0.0, 0.5, 1.0))) if of.random() < 0.5 else None,
        canvas=canvas,
    )
    return subject, photo_width, photo_height, layout


def test_a_thousand_placements_are_within_a_pixel_of_the_formula_and_cut_nothing_off() -> None:
    kinds = set()
    for seed in range(CASES):
        case = any_case(seed)
        layout = case[-1]
        placed, exact = place(*case), exactly(*case)
        box = placed.subject
        assert (Fraction(placed.width), Fraction(placed.height)) == (exact.width, exact.height), case
        assert abs(box.width - exact.subject_width) <= 0.501, case
        assert abs(box.height - exact.subject_height) <= 0.501, case
        assert abs(box.left - exact.left) <= 1.001, case
        assert abs(box.top - exact.top) <= 1.001, case
        assert min(box.left, box.top) >= 0, case
        assert box.width >= 1, case
        assert box.height >= 1, case
        assert box.right <= placed.width, case
        assert box.bottom <= placed.height, case
        kinds.add((layout.trim, layout.canvas is None, layout.scale is None, layout.position is None))
    assert len(kinds) == 16


def test_what_is_left_alone_keeps_its_size_and_place() -> None:
    for seed in range(100):
        subject, width, height, _ = any_case(seed)
        assert place(subject, width, height, Layout()).subject == subject
        trimmed = place(subject, width, height, Layout(trim=True))
        assert trimmed.subject == Box(0, 0, trimmed.width, trimmed.height)
        assert (trimmed.width, trimmed.height) == (subject.width, subject.height)
        moved = place(subject, width, height, Layout(position=(1.0, 1.0)))
        assert (moved.subject.right, moved.subject.bottom) == (width, height)


def test_by_hand() -> None:
    subject = Box(100, 50, 400, 200)
    square = Layout(canvas=(1000, 1000), margin=parse_margin("5%"))
    assert place(subject, 800, 600, square).subject == Box(50, 275, 900, 450)
    low = replace(square, position=(0.5, 1.0))
    assert place(subject, 800, 600, low).subject == Box(50, 500, 900, 450)
    half = replace(low, scale=0.5)
    assert place(subject, 800, 600, half).subject == Box(250, 700, 500, 250)
    framed = place(subject, 800, 600, Layout(trim=True, margin=parse_margin("10% 5px")))
    assert (framed.width, framed.height, framed.subject) == (410, 240, Box(5, 20, 400, 200))
    in_place = place(subject, 800, 600, Layout(scale=0.25))
    assert (in_place.width, in_place.height, in_place.subject) == (800, 600, Box(300, 250, 200, 100))


def px(value: float) -> Length:
    return Length(value)


def percent(value: float) -> Length:
    return Length(value, Unit.PERCENT)


@pytest.mark.parametrize(
    ("text", "margin"),
    [
        ("5%", Margin(percent(5), percent(5), percent(5), percent(5))),
        ("10px, 20", Margin(px(10), px(20), px(10), px(20))),
        ("1 2% 3px .5%", Margin(px(1), percent(2), px(3), percent(0.5))),
    ],
)
def test_margins_are_written_as_in_css(text: str, margin: Margin) -> None:
    assert parse_margin(text) == margin


def test_texts_are_parsed() -> None:
    assert parse_scale("80%") == parse_scale("80") == 0.8
    assert parse_scale("Original") is None
    assert parse_position("center") == parse_position("50% 50%") == parse_position("50") == (0.5, 0.5)
    assert parse_position("bottom") == (0.5, 1.0)
    assert parse_position("bottom left") == parse_position("left bottom") == (0.0, 1.0)
    assert parse_position("left") == (0.0, 0.5)
    assert parse_position("original") is None
    assert parse_canvas("2000x1500") == parse_canvas("2000 × 1500") == (2000, 1500)
    assert parse_canvas("512") == (512, 512)
    assert parse_canvas(" Original") is None
    region = parse_region("10% 0 90% 100%")
    assert region.box(200, 101) == Box(20, 0, 160, 101)
    assert parse_region("0px 0px 200px 101px").box(200, 101) == Box(0, 0, 200, 101)


@pytest.mark.parametrize(
    ("parse", "texts"),
    [
        (parse_margin, ("", "5em", "-5px", "1 2 3", "1 2 3 4 5", "101%", "5001px", "1e3", "nan")),
        (parse_scale, ("", "0%", "101%", "80px", "big")),
        (parse_position, ("", "1 2 3", "101%", "10px", "middle", "-1")),
        (parse_canvas, ("", "0x5", "5x", "32769x1", "2000 by 10", "1.5x2", "99999999")),
        (parse_region, ("", "1 2 3", "1 2 3 4 5", "a b c d", "-1 0 1 1")),
    ],
)
def test_what_is_no_value_is_named(parse: object, texts: tuple[str, ...]) -> None:
    assert callable(parse)
    for text in texts:
        with pytest.raises(InvalidOptions, match=r"is not a|is too large"):
            parse(text)


def test_a_region_lies_in_the_photo_and_has_pixels() -> None:
    for text in ("0 0 201 100", "0 0 100% 101", "0% 0% 100.5% 100%"):
        with pytest.raises(RegionOutside, match="200 × 100 pixels"):
            parse_region(text).box(200, 100)
    for text in ("50 0 50 100", "60% 0 50% 100", "0 0 0.1 100"):
        with pytest.raises(RegionEmpty):
            parse_region(text).box(200, 100)
