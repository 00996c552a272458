"""Hints by file name: what a file may say, what is refused and how, and which photos they are for."""

import json
import unicodedata
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.hints import Hints, parse_box, parse_points
from cutout.inference.option_values import OptionValues
from cutout.inference.photo_hints import HINTS, TYPES, assign, parse_photo_hints, require_photos

BOX = Hints(box=parse_box("10% 0% 90% 100%"))
LARGEST = Hints(largest_only=True)
# Options that are no hints, and the hints that are pictures.
OTHERS = {
    *(
        "tier",
        "format",
        "mask_only",
        "background",
        "background_image",
        "quality",
        "preset",
        "max_megapixels",
        "animation",
    ),
    *("trim", "margin", "scale", "position", "canvas", "roi", "shadow", "shadow_opacity"),
    *("keep_shadow", "keep_profile", "require_subject"),
}


def parsed(hints: object, most: int | None = None) -> dict[str, Hints]:
    return parse_photo_hints(json.dumps(hints).encode(), most)


def refused(data: bytes | str, most: int | None = None) -> str:
    with pytest.raises(InvalidOptions) as error:
        parse_photo_hints(data if isinstance(data, bytes) else data.encode(), most)
    assert len(str(error.value)) < 400
    return str(error.value)


def test_every_hint_but_pictures_can_be_given_by_file_name() -> None:
    pictures = {name for name, types in TYPES.items() if bytes in types}
    assert set(HINTS.values()) == {one.name for one in fields(OptionValues)} - OTHERS - pictures


def test_points_are_text_or_lists() -> None:
    wanted = Hints(keep=parse_points("120px 80px, 50% 50%"), drop=parse_points("1 2"))
    for keep in (
        "120px 80px, 50% 50%",
        [[120, 80], ["50%", "50%"]],
        [[120.0, "80"], ["50%", "50.0%"]],
        [[1.2e2, "80px"], ["50%", "50%"]],
    ):
        assert parsed({"a.jpg": {"keep": keep, "drop": [["1px", 2]]}}) == {"a.jpg": wanted}
    (hints,) = parsed({"a.jpg": {"keep": [[100 / 3, 0]]}}).values()
    assert hints.keep == parse_points("33.333333 0")


def test_each_photo_has_its_own_and_null_is_none() -> None:
    given = {
        "a.jpg": {"box": "10% 0% 90% 100%", "keep": None},
        "b.jpg": {"largestOnly": True},
        "c.jpg": {},
    }
    assert parsed(given) == {"a.jpg": BOX, "b.jpg": LARGEST, "c.jpg": Hints()}
    more = {"a.jpg": {"holes": "fill", "minCoverage": 2.5}, "b.jpg": {"minCoverage": 0, "holes": "keep"}}
    assert parsed(more) == {"a.jpg": Hints(fill_holes=True, min_coverage=0.025), "b.jpg": Hints()}
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):  # as Windows writes files
        assert len(parse_photo_hints(json.dumps(given).encode(encoding))) == 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("", "It is not JSON: Expecting value, in line 1, column 1."),
        ('{"a.jpg": {}\n "b.jpg": {}}', "Expecting ',' delimiter, in line 2, column 2."),
        (b"\xff\xd8\xff\xe0", "It is not JSON in UTF-8."),
        ("[]", "It is not an object from file names"),
        ('{"a.jpg": []}', "'a.jpg': Write the hints as an object"),
        ('{"a.jpg": null}', "'a.jpg': Write the hints as an object"),
        ('{"a.jpg": {}, "a.jpg": {}}', "'a.jpg' stands there twice."),
        ('{"caf\\u00e9": {}, "cafe\\u0301": {}}', "stands there twice."),
        ('{"a.jpg": {"box": "0 0 1 1", "box": "0 0 1 1"}}', "'a.jpg': box stands there twice."),
        ('{"a.jpg": {"boxes": ""}}', "'a.jpg': 'boxes' is not a hint. Did you mean box?"),
        ('{"a.jpg": {"largest_only": true}}', "Did you mean largestOnly?"),
        ('{"a.jpg": {"tier": "basic"}}', "'tier' is not a hint. Choose one of: box, keep, drop, largestOnly"),
        ('{"a.jpg": {"box": "1 2 3"}}', "'a.jpg': box: '1 2 3' is not a box."),
        ('{"a.jpg": {"box": NaN}}', "'a.jpg': box: 'NaN' is not a box."),
        ('{"a.jpg": {"box": [1, 2, 3, 4]}}', "'a.jpg': box: Write text."),
        ('{"a.jpg": {"largestOnly": "true"}}', "'a.jpg': largestOnly: Write true or false."),
        ('{"a.jpg": {"largestOnly": 1}}', "'a.jpg': largestOnly: Write true or false."),
        ('{"a.jpg": {"holes": "yes"}}', "'a.jpg': holes: 'yes' is not a holes. Choose one of: keep, fill."),
        ('{"a.jpg": {"minCoverage": NaN}}', "'a.jpg': minCoverage: nan is not a number from 0 to 100."),
        ('{"a.jpg": {"minCoverage": 1e999}}', "'a.jpg': minCoverage: inf is not a number from 0 to 100."),
        ('{"a.jpg": {"minCoverage": "5"}}', "'a.jpg': minCoverage: Write a number."),
        ('{"a.jpg": {"keepMask": "m.png"}}', "'a.jpg': keepMask is a picture, which JSON cannot hold."),
        ('{"a.jpg": {"keep": [120, 80]}}', "'a.jpg': keep: Write each point as two lengths"),
        ('{"a.jpg": {"keep": [[1, 2, 3]]}}', "'a.jpg': keep: Write each point as two lengths"),
        ('{"a.jpg": {"keep": [{"x": 1, "y": 2}]}}', "'a.jpg': keep: Write each point as two lengths"),
        ('{"a.jpg": {"keep": {}}}', "'a.jpg': keep: Write text, or points as"),
        ('{"a.jpg": {"keep": [["1 2", "3"], [4, "5 6"]]}}', "'a.jpg': keep: Write each length as"),
        ('{"a.jpg": {"keep": [[null, 1]]}}', "'a.jpg': keep: Write each length as"),
        ('{"a.jpg": {"keep": [[-1, 2]]}}', "'a.jpg': keep: '-1' is not a length."),
        ('{"a.jpg": {"keep": [[NaN, Infinity]]}}', "'a.jpg': keep: 'NaN' is not a length."),
        ('{"a.jpg": {"keep": []}}', "'a.jpg': keep: '' is not a list of points."),
        ('{"a.jpg": {"keep": %s}}' % ([[1, 2]] * 101), "There are 101 points. Give at most 100."),
        ('{"a.jpg": {"keep": "1 2", "largestOnly": true}}', "'a.jpg': Points to keep say which parts stay"),
        ('{"a.jpg": {"keep": [[1, 2]], "drop": "1px 2px"}}', "'a.jpg': The point 1px 2px is both to keep"),
        ('{"\\ud800": {"box": "\\udfff"}}', "'\\ud800': box: '\\udfff' is not a box."),
    ],
)
def test_what_cannot_be_used_is_refused_by_photo_and_hint(data: bytes | str, says: str) -> None:
    assert says in refused(data)


@pytest.mark.parametrize(
    "bomb",
    [
        "[" * 400_000,
        '{"a":' * 80_000,
        '{"a":{"keep":' + "[" * 400_000,
        "1" * 400_000,
        '{"a":{"keep":[[%s,0]]}}' % ("1" * 400_000),
        '{"a":{"box":"%s"}}' % ("1 " * 200_000),
        '{"a":{"%s":1}}' % ("a" * 400_000),
        '{"%s":1}' % ("a" * 400_000),
        '{"a":{"keep":[%s[1,2]]}}' % ("[1,2]," * 50_000),
        *(json.dumps({"a": {name: "x" * 400_000}}) for name in HINTS),
    ],
    ids=lambda bomb: bomb[:12],
)
def test_bombs_are_refused_in_few_words(bomb: str) -> None:
    refused(bomb)


def test_a_file_may_name_no_more_photos_than_there_can_be() -> None:
    names: dict[str, Any] = {f"{number}.jpg": {} for number in range(501)}
    assert refused(json.dumps(names), 500) == "It names 501 photos. Name at most 500."
    assert len(parsed(names)) == 501


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
POINTS = st.lists(st.lists(st.integers(0, 99) | st.sampled_from(["5%", "7px"]), min_size=2, max_size=2))
ENTRIES = st.dictionaries(st.sampled_from([*HINTS, "tier"]), VALUES | POINTS, max_size=3) | VALUES


@settings(max_examples=60)
@given(st.dictionaries(st.text(max_size=5), ENTRIES, max_size=3) | VALUES)
def test_any_json_is_hints_or_refused(value: object) -> None:
    try:
        hints = parsed(value)
    except InvalidOptions:
        return
    assert isinstance(value, dict)
    assert all(isinstance(one, Hints) for one in hints.values())


@given(
    st.binary(max_size=60)
    | st.text('[]{}:,"a1.eE-\\u \ud800', max_size=60).map(lambda one: one.encode("utf-8", "surrogatepass"))
)
def test_any_bytes_are_hints_or_refused(data: bytes) -> None:
    try:
        parse_photo_hints(data)
    except InvalidOptions:
        return
    assert isinstance(json.loads(data), dict)


def test_a_name_fits_with_its_folders_or_else_alone() -> None:
    hints = parsed({"mug.jpg": {}, "a/cup.jpg": {"largestOnly": True}, "b\\pot.jpg": {"largestOnly": True}})
    names = ["b/cup.jpg", "x/mug.jpg", "a/cup.jpg", "b/pot.jpg", "a/cup.jpg"]
    assert assign(hints, names) == [None, Hints(), LARGEST, LARGEST, LARGEST]
    # The photo that is named whole comes first, and the others with that end are not meant.
    assert assign(parsed({"mug.jpg": {}}), ["x/mug.jpg", "mug.jpg", "y/mug.jpg"]) == [None, Hints(), None]
    assert assign({}, names) == [None] * 5
    require_photos(hints, names)


def test_a_mac_and_others_write_the_same_name() -> None:
    names = [unicodedata.normalize(form, "é.jpg") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    for name in names:
        assert assign(parsed({name: {}}), names) == [Hints(), Hints()]


def test_a_name_that_may_mean_several_photos_is_refused() -> None:
    with pytest.raises(
        InvalidOptions, match=r"'mug.jpg' is the name of photos in 2 folders. .* 'a/mug.jpg', 'b/mug.jpg'"
    ):
        assign(parsed({"mug.jpg": {}}), ["b/mug.jpg", "a/mug.jpg"])
    with pytest.raises(InvalidOptions, match=r"'a/mug.jpg' and 'mug.jpg' are the same photo"):
        assign(parsed({"a/mug.jpg": {}, "mug.jpg": {}}), ["a/mug.jpg", "other.jpg"])


def test_a_name_that_fits_no_photo_is_refused_with_close_ones() -> None:
    names = ["shelf/mug.jpg", "cup.jpg", *(f"{number}.png" for number in range(9))]
    with pytest.raises(InvalidOptions) as error:
        require_photos(parsed({"cup.jpg": {}, "MUG.jpeg": {}, "pot.jpg": {}}), names)
    assert str(error.value) == (
        "2 names fit no photo, the first of them 'MUG.jpeg'. Did you mean 'shelf/mug.jpg', 'cup.jpg'?"
    )
    with pytest.raises(InvalidOptions) as error:
        require_photos(parsed({"zzzz": {}}), names)
    assert str(error.value) == (
        "'zzzz' fits no photo. The names of the photos are '0.png', '1.png', '2.png', '3.png', '4.png', …."
    )
