"""How far this service does as remove.bg, Photoroom and rembg do: one row for each field, header and error.

`cutout compat-check` tries each row on a running service; the same rows are the table in `docs/migrate.md`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Api(StrEnum):
    """An API of others that this service speaks."""

    REMOVEBG = "remove.bg"
    PHOTOROOM = "Photoroom"
    REMBG = "rembg"


class Verdict(StrEnum):
    """The outcome of what an integration sends, from the best to the worst."""

    IDENTICAL = "identical"
    IGNORED = "ignored"
    DIFFERENT = "different"
    REFUSED = "refused"

    def worse_than(self, other: "Verdict") -> bool:
        """Tell whether an integration is worse off with this outcome."""
        order = list(Verdict)
        return order.index(self) > order.index(other)


@dataclass(frozen=True)
class Row:
    """One thing that integrations rely on. `fields` are the names of the fields that it is about."""

    api: Api
    name: str
    expected: Verdict
    note: str = ""
    fields: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Its name, or the names of its fields if it is called after one of them."""
        return ", ".join(self.fields) if self.name in self.fields else self.name


def _rows(api: Api, expected: Verdict, *rows: tuple[str, str] | tuple[str, str, str]) -> list[Row]:
    """Return rows from their name, note and fields; a row without fields is about the one of its name."""
    made = []
    for name, note, *fields in rows:
        words = fields[0].split() if fields else name.split()
        made.append(Row(api, name, expected, note, tuple(words)))
    return made


ROWS = [
    *_rows(
        Api.REMOVEBG,
        Verdict.IDENTICAL,
        ("image_file", ""),
        ("image_file_b64", "also with a `data:` prefix"),
        ("image_url", "by the service's rules for addresses: on the public internet, at most 30 MB"),
        ("a form", "multipart or form-urlencoded", ""),
        ("JSON", "as the body, and as the answer where `Accept` asks for it", ""),
        ("size", "`small` and `regular` are `preview`, `4k` is `full`"),
        ("format", "`auto`, `png`, `jpg`, `webp`, `zip`"),
        ("roi", ""),
        ("crop", "", "crop crop_margin"),
        ("scale", ""),
        ("position", ""),
        ("channels", ""),
        ("bg_color", ""),
        ("bg_image_file", ""),
        ("bg_image_url", "by the rules for `image_url`"),
        ('"undefined"', "as text, is a field that is not set", ""),
        ("a key", "in `X-Api-Key` or `Authorization: Bearer`; another one is 403", ""),
        ("headers of a result", "`X-Width`, `X-Credits-Charged`, `X-Foreground-…` and the others", ""),
        ("GET /v1.0/account", "", ""),
        ("POST /v1.0/improve", "is answered, and nothing is kept", "image_filename tag"),
        ("errors", "the same codes, in the same shape; they cost nothing", ""),
    ),
    *_rows(
        Api.REMOVEBG,
        Verdict.DIFFERENT,
        ("add_shadow", "one soft shadow stands for all of theirs", "add_shadow shadow_type shadow_opacity"),
    ),
    *_rows(
        Api.REMOVEBG,
        Verdict.IGNORED,
        ("type", "one network cuts out all of them; `X-Type` is `other`", "type type_level"),
        ("semitransparency", "windows of cars stay as the network sees them"),
        ("shadow_method", ""),
    ),
    *_rows(
        Api.PHOTOROOM,
        Verdict.IDENTICAL,
        ("image_file", ""),
        ("JSON", "as the answer where `Accept` asks for it", ""),
        ("size", ""),
        ("format", ""),
        ("channels", ""),
        ("bg_color", ""),
        ("crop", ""),
        ("a key", "", ""),
        ("x-uncertainty-score", "a score of this service's own", ""),
        ("errors", "`detail`, `status_code` and `type`", ""),
    ),
    *_rows(Api.PHOTOROOM, Verdict.IGNORED, ("despill", "edge colours are cleaned by the tier")),
    *_rows(
        Api.REMBG,
        Verdict.IDENTICAL,
        ("file", ""),
        ("url", "by the service's rules for addresses"),
        ("om", "only the mask"),
        ("bgc", "in the query"),
        ("errors", "400 and 422 with `detail`", ""),
    ),
    *_rows(
        Api.REMBG,
        Verdict.DIFFERENT,
        ("a", "a dearer tier refines the edges"),
        ("dc", "a dearer tier cleans the edge colours"),
    ),
    *_rows(
        Api.REMBG,
        Verdict.IGNORED,
        ("model", "the tier chooses the network"),
        ("af", "the tier has no thresholds", "af ab ae"),
        ("ppm", ""),
        ("extras", "neither points nor files are taken from it"),
    ),
]


def rows_of(api: Api) -> list[Row]:
    """Return the rows of an API."""
    return [row for row in ROWS if row.api is api]


def row_of(api: Api, field: str) -> Row | None:
    """Return the row that is about a field; None if that API has no such field."""
    return next((row for row in rows_of(api) if field in row.fields), None)


def as_markdown(rows: Iterable[Row]) -> list[str]:
    """Return the lines of a table for the documentation."""
    lines = ["| | outcome | |", "|---|---|---|"]
    for row in rows:
        names = re.sub(r"\w+", r"`\g<0>`", row.shown) if row.name in row.fields else row.name
        lines.append(f"| {names} | {row.expected} | {row.note} |")
    return lines
