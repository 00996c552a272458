"""Hints as text and as boxes and points of a photo."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.hints import MOST_POINTS, Hints, parse_box, parse_points

ALL = Box(0, 0, 200, 100)
NUMBERS = st.one_of(st.integers(0, 250).map(str), st.floats(0, 150).map("{:.3f}".format))
WORDS = st.builds("{}{}".format, NUMBERS, st.sampled_from(["", "px", "%"]))
TEXTS = st.one_of(
    st.text(max_size=30),
    st.lists(WORDS, max_size=9).map(" ".join),
    st.lists(WORDS, max_size=9).map(", ".join),
)


def hints(box: str = "", keep: str = "", drop: str = "") -> Hints:
    return Hints(
        parse_box(box) if box else None,
        parse_points(keep) if keep else (),
        parse_points(drop) if drop else (),
    )


def test_points_may_be_written_with_or_without_commas() -> None:
    assert (
        parse_points("120px 80px, 50% 50%")
        == parse_points("120,80 50%,50%")
        == parse_points("120 80 50% 50%")
    )
    spots = hints(keep="120px 80px, 50% 50%").on(200, 100, ALL).keep
    assert spots == ((0.6, 0.8), (0.5, 0.5))


@pytest.mark.parametrize(
    "text", ["", " ", "1", "1 2 3", "a b", "-1 2", "1em 2", "nan nan", "1e3 4", "9999999 1", "x" * 30]
)
def test_what_is_no_list_of_points_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(InvalidOptions) as refused:
        parse_points(text)
    assert len(str(refused.value)) < 250


def test_a_hundred_points_at_most() -> None:
    assert len(parse_points("12.345678px 1234.567890px, " * MOST_POINTS)) == MOST_POINTS
    for many in ("1 2 " * (MOST_POINTS + 1), "1 2 " * 1_000_000, "9" * 1_000_000):
        with pytest.raises(InvalidOptions) as refused:
            parse_points(many)
        assert len(str(refused.value)) < 250


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (hints(box="0 0 201px 100px"), "The box ends at 201 × 100, and the photo has 200 × 100 pixels"),
        (hints(box="50% 0 100px 100%"), "The box has no pixels"),
        (hints(box="0 0 20px 20px"), "The box and the region have no pixels in common"),
        (hints(keep="201 1"), "The point 201px 1px is beyond the photo, which has 200 × 100 pixels"),
        (hints(drop="1 101%"), "The point 1px 101% is beyond the photo"),
        (hints(box="50% 50% 90% 90%", keep="10px 10px"), "The point 10px 10px to keep is outside of the box"),
        (hints(keep="49px 50px"), "The point 49px 50px to keep is outside of the region"),
        (hints(keep="100 50", drop="50% 50%"), "The point 100px 50px is both to keep and to drop"),
    ],
)
def test_hints_that_contradict_the_photo_or_each_other_are_refused(wrong: Hints, says: str) -> None:
    with pytest.raises(InvalidOptions) as refused:
        wrong.on(200, 100, Box(50, 20, 150, 80))
    assert says in str(refused.value)


def test_the_network_is_shown_the_box_with_a_margin_as_far_as_is_searched() -> None:
    marks = hints(box="100px 20px 140px 40px", keep="50% 25px").on(200, 100, ALL)
    assert marks.view == Box(94, 14, 52, 32)
    assert marks.aim(200, 100).keep[0] == pytest.approx((6 / 52, 11 / 32))
    assert marks.aim(200, 100).box == pytest.approx((6 / 52, 6 / 32, 46 / 52, 26 / 32))
    assert hints(box="100px 20px 140px 40px").on(200, 100, Box(98, 0, 30, 100)).view == Box(98, 16, 30, 28)
    assert hints().on(200, 100, Box(1, 2, 3, 4)).view == Box(1, 2, 3, 4)


def test_a_box_stays_within_what_is_searched_in_a_smaller_photo() -> None:
    marks = hints(box="3px 0 4px 100%").on(50, 50, Box(0, 0, 4, 50)).rescaled(50, 50, 10, 10)
    assert (marks.part, marks.box, marks.view) == (Box(0, 0, 1, 10), Box(0, 0, 1, 10), Box(0, 0, 1, 10))


@settings(max_examples=100, deadline=None)
@given(TEXTS, TEXTS, TEXTS, st.integers(1, 300), st.integers(1, 300), st.data())
def test_any_text_is_refused_or_lies_within_the_photo(
    box: str, keep: str, drop: str, width: int, height: int, data: st.DataObject
) -> None:
    part = Box(0, 0, width, height).within(
        Box(data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1)), width, height)
    )
    try:
        made = hints(box, keep, drop)
        made.check()
        marks = made.on(width, height, part)
    except InvalidOptions:
        return
    new = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    for one, size in ((marks, (width, height)), (marks.rescaled(width, height, *new), new)):
        for inner, outer in (
            (one.view, one.part),
            (one.box or one.view, one.view),
            (one.part, Box(0, 0, *size)),
        ):
            assert inner.width >= 1
            assert inner.height >= 1
            assert inner.within(outer) == inner
        aim = one.aim(*size)
        assert len(aim.keep) == len(made.keep)
