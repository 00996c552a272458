"""Hints for many photos, by their file names, as a JSON file has them. Batches and the command line share this definition.

```json
{"mug.jpg": {"box": "10% 0% 90% 100%"}, "shelf/2.jpg": {"keep": [[120, 80], ["50%", "50%"]], "largestOnly": false}}
```

The names of the hints are those of a form's fields. A photo's own hints replace those that hold for all photos.
"""

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.hints import LONGEST_POINTS, Hints, parse_points
from cutout.inference.json_text import InvalidJson, Number, read_json
from cutout.inference.option_values import PARSERS, OptionValues, to_options

# A message repeats no more than this of a text, and lists no more names of photos than these.
LONGEST_QUOTE, MOST_NAMES = 60, 5
# Of a name, this much of the end is compared to find close ones: the time grows with its square.
COMPARED = 40
MOST_PIXELS = 1_000_000
LISTS_OF_POINTS = tuple(name for name, parse in PARSERS.items() if parse is parse_points)


def _camel(name: str) -> str:
    return re.sub("_([a-z])", lambda found: found[1].upper(), name)


# The options that a file may give, by the names that it has them under: the hints that JSON can hold.
HINTS = {
    _camel(name): name for name in ("box", "keep", "drop", "largest_only", "holes", "min_coverage", "within")
}
TYPES = {name: get_args(kind) for name, kind in get_type_hints(OptionValues).items()}
PICTURES = {_camel(name) for name, types in TYPES.items() if bytes in types}


def parse_photo_hints(data: bytes, most: int | None = None) -> dict[str, Hints]:
    """Parse a file of hints into the hints of each name, which is as `photo_key` returns it.

    `most` is the largest number of photos that it may name.

    Raises:
        InvalidOptions: it is not JSON, names a photo or a hint twice, or has a hint that is unknown or cannot be used;
            the message names the photo and the hint.

    """
    try:
        found = read_json(data, _Pairs)
    except InvalidJson as error:
        raise InvalidOptions(str(error)) from None
    if not isinstance(found, _Pairs):
        raise InvalidOptions(
            'It is not an object from file names to hints. Write {"mug.jpg": {"box": "10% 0% 90% 100%"}}.'
        )
    if most is not None and len(found) > most:
        raise InvalidOptions(f"It names {len(found)} photos. Name at most {most}.")
    hints: dict[str, Hints] = {}
    for name, value in found:
        key = photo_key(name)
        if key in hints:
            raise InvalidOptions(
                f"{_quoted(name)} stands there twice. Write all hints of a photo in one object."
            )
        hints[key] = _parse_hints(f"{_quoted(name)}: ", value)
    return hints


def photo_key(name: str) -> str:
    """Return what is compared of a photo's name: its path with `/`, in Unicode's NFC form, as a Mac writes names in NFD."""
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def assign(hints: Mapping[str, Hints], names: Sequence[str]) -> list[Hints | None]:
    """Return the hints for each of the photos with these names; None for one that has no own ones.

    A name fits every photo whose name, with its folders, is the same. If there is none, it fits the photo whose name is
    the same without folders.

    Raises:
        InvalidOptions: a name fits photos in several folders, or two names fit the same photo.

    """
    folders = _by_last_part(names)
    keys = [photo_key(name) for name in names]
    known, given = set(keys), dict[str, str]()  # the photo's key, and the name under which it got hints
    for name in hints:
        fitting = [name] if name in known else sorted(folders.get(name, ()))
        if len(fitting) > 1:
            raise InvalidOptions(
                f"{_quoted(name)} is the name of photos in {len(fitting)} folders. Write the name with its folders, as"
                f" {_listed(fitting)}."
            )
        for key in fitting:
            if key in given:
                raise InvalidOptions(
                    f"{_quoted(given[key])} and {_quoted(name)} are the same photo. Give its hints once."
                )
            given[key] = name
    return [hints[given[key]] if key in given else None for key in keys]


def require_photos(hints: Mapping[str, Hints], names: Sequence[str]) -> None:
    """Return if each name in the hints fits one of the photos with these names, as `assign` finds them.

    Raises:
        InvalidOptions: one fits none; the message lists names that are close to it.

    """
    folders, known = _by_last_part(names), set(map(photo_key, names))
    unknown = [name for name in hints if name not in known and name not in folders]
    if not unknown:
        return
    message = f"{_quoted(unknown[0])} fits no photo."
    if len(unknown) > 1:
        message = f"{len(unknown)} names fit no photo, the first of them {_quoted(unknown[0])}."
    ends: dict[str, str] = {}
    for key in sorted(known):
        ends.setdefault(_end(key), key)
    close = difflib.get_close_matches(_end(unknown[0]), ends, n=MOST_NAMES)
    if close:
        raise InvalidOptions(f"{message} Did you mean {_listed([ends[end] for end in close])}?")
    raise InvalidOptions(f"{message} The names of the photos are {_listed(sorted(known))}.")


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, with the names that come more than once."""


def _parse_hints(where: str, value: object) -> Hints:
    if not isinstance(value, _Pairs):
        raise InvalidOptions(f'{where}Write the hints as an object, such as {{"largestOnly": true}}.')
    given: dict[str, Any] = {}
    for called, one in value:
        if called in PICTURES:
            raise InvalidOptions(
                f"{where}{called} is a picture, which JSON cannot hold. Send this photo alone."
            )
        if called not in HINTS:
            close = difflib.get_close_matches(called[:COMPARED], HINTS, n=1)
            meant = f"Did you mean {close[0]}?" if close else f"Choose one of: {', '.join(HINTS)}."
            raise InvalidOptions(f"{where}{_quoted(called)} is not a hint. {meant}")
        if HINTS[called] in given:
            raise InvalidOptions(f"{where}{called} stands there twice.")
        given[HINTS[called]] = _plain(f"{where}{called}: ", HINTS[called], one)
    try:
        return to_options(OptionValues(**given), _camel).hints
    except InvalidOptions as error:
        raise InvalidOptions(f"{where}{error}") from None


def _plain(where: str, name: str, value: object) -> object:
    """Return a value from JSON as `OptionValues` takes it; null is None."""
    if value is None:
        return None
    if bool in TYPES[name]:
        if isinstance(value, bool):
            return value
        raise InvalidOptions(f"{where}Write true or false.")
    if float in TYPES[name]:
        if isinstance(value, Number):
            return float(value)
        raise InvalidOptions(f"{where}Write a number.")
    if isinstance(value, list) and not isinstance(value, _Pairs) and name in LISTS_OF_POINTS:
        return _points(where, value)
    if not isinstance(value, str):
        wanted = "text, or points as [[120, 80]]" if name in LISTS_OF_POINTS else "text"
        raise InvalidOptions(f"{where}Write {wanted}.")
    if len(value) > LONGEST_POINTS:
        raise InvalidOptions(f"{where}The text has more than {LONGEST_POINTS} characters.")
    return str(value)


def _points(where: str, points: list[object]) -> str:
    """Return a list of points in the text form. A number is in pixels."""
    texts = []
    for point in points:
        if not isinstance(point, list) or isinstance(point, _Pairs) or len(point) != 2:
            raise InvalidOptions(
                f'{where}Write each point as two lengths, such as [[120, 80], ["50%", "50%"]].'
            )
        for length in point:
            if not isinstance(length, str) or len(length.replace(",", " ").split()) != 1:
                raise InvalidOptions(
                    f'{where}Write each length as a number of pixels, or as text, such as "50%".'
                )
        texts.append(" ".join(map(_length, point)))
    return ", ".join(texts)


def _length(value: str) -> str:
    """Return a length of a point as text. Programs write numbers with more decimals than a text may have."""
    if isinstance(value, Number) and 0 <= float(value) < MOST_PIXELS:
        return f"{float(value):.6f}"
    return str(value)


def _by_last_part(names: Sequence[str]) -> dict[str, set[str]]:
    """Return the keys of the photos by the last part of their path."""
    found: dict[str, set[str]] = defaultdict(set)
    for key in map(photo_key, names):
        found[key.rpartition("/")[2]].add(key)
    return dict(found)


def _end(key: str) -> str:
    return key.rpartition("/")[2].casefold()[-COMPARED:]


def _listed(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MOST_NAMES else ""
    return ", ".join(_quoted(name) for name in names[:MOST_NAMES]) + more


def _quoted(name: str) -> str:
    return repr(name if len(name) <= LONGEST_QUOTE else name[:LONGEST_QUOTE] + "…")
