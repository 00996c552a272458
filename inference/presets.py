"""Named presets: option values that a marketplace or another use asks for, from TOML files.

The built-in ones are in `presets.toml`; an operator may add a file of their own. A request can only name a preset.
"""

import difflib
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from cutout.inference.errors import InvalidOptions
from cutout.inference.limits import DEFAULT_SIZES, SizeLimits
from cutout.inference.option_values import OptionValues, to_options
from cutout.inference.options import Options

BUILT_IN = Path(__file__).with_name("presets.toml")
NAME = re.compile(r"[a-z0-9-]{1,40}")
ABOUT = ("title", "source", "asks")
# A preset changes neither the price nor which files are read.
NOT_IN_PRESETS = ("tier", "animation", "background_image", "keep_mask", "drop_mask", "preset")
VALUES = tuple(one.name for one in fields(OptionValues) if one.name not in NOT_IN_PRESETS)


class InvalidPresets(ValueError):
    """A file of presets cannot be used; the message says why, for the operator."""


@dataclass(frozen=True)
class Preset:
    """A preset. `source` is the page with the requirements, `asks` what it asks for and whether that was verified."""

    name: str
    title: str
    values: OptionValues
    source: str = ""
    asks: str = ""

    @property
    def verified(self) -> bool | None:
        """Whether all of `asks` was read on the source's own page; None without a source."""
        return "not verified" not in self.asks.lower() if self.source else None

    @property
    def given(self) -> dict[str, Any]:
        """The options that the preset sets, by name."""
        return {name: value for name, value in vars(self.values).items() if value is not None}


class Presets(Mapping[str, Preset]):
    """The presets of a host, by name."""

    def __init__(self, presets: Mapping[str, Preset]) -> None:
        self._presets = dict(presets)

    def __getitem__(self, name: str) -> Preset:
        return self._presets[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._presets)

    def __len__(self) -> int:
        return len(self._presets)

    def require(self, name: object) -> Preset:
        """Return a preset.

        Raises:
            InvalidOptions: there is none of this name; the message lists the known ones.

        """
        found = self._presets.get(name) if isinstance(name, str) else None
        if found is None:
            close = difflib.get_close_matches(str(name), self._presets, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise InvalidOptions(f"{name!r} is not a preset. {hint}Choose one of: {', '.join(self)}.")
        return found

    def apply(self, values: OptionValues, named: Callable[[str], str] = str) -> OptionValues:
        """Return the values, and those of the preset that they name where they have none.

        Raises:
            InvalidOptions: there is no such preset; `named` returns the name that the caller knows an option by.

        """
        if values.preset is None:
            return values
        try:
            preset = self.require(values.preset).values
        except InvalidOptions as error:
            raise InvalidOptions(f"{named('preset')}: {error}") from None
        if values.wants_mask:  # it has neither
            preset = replace(preset, background=None, shadow=None, shadow_opacity=None, keep_shadow=None)
        if values.keep_shadow:  # there is only one shadow
            preset = replace(preset, shadow=None, shadow_opacity=None)
        if values.shadow == "soft":
            preset = replace(preset, keep_shadow=None)
        if values.background_image is not None:
            preset = replace(preset, background=None)
        return replace(values.over(preset), preset=None)

    def options(
        self, values: OptionValues, named: Callable[[str], str] = str, sizes: SizeLimits = DEFAULT_SIZES
    ) -> Options:
        """Return the options that the values describe, with their preset; see `to_options`.

        Raises:
            InvalidOptions: there is no such preset, or a value cannot be used; the message names the option.
            InvalidBackground: the picture for the background cannot be read.

        """
        return to_options(self.apply(values, named), named, sizes)


@cache
def load_presets(file: Path | None = None) -> Presets:
    """Return the built-in presets and those of `file`, which replace built-in ones of the same name.

    Files are read once.

    Raises:
        InvalidPresets: the file cannot be read, or a preset in it cannot be used.

    """
    presets = _read(BUILT_IN)
    return Presets(presets if file is None else presets | _read(file))


def _read(file: Path) -> dict[str, Preset]:
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidPresets(f"{file} cannot be read ({error.strerror}).") from None
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise InvalidPresets(f"{file} is not TOML: {error}.") from None
    return {name: _preset(name, table, file) for name, table in tables.items()}


def _preset(name: str, table: Any, file: Path) -> Preset:
    where = f"{file}: preset {name!r}"
    if NAME.fullmatch(name) is None:
        raise InvalidPresets(f"{where}: a name has 1 to 40 of the characters a-z, 0-9 and -.")
    if not isinstance(table, dict):
        raise InvalidPresets(f"{where}: write a table, [{name}], with one option on each line.")
    for key, value in table.items():
        if key in NOT_IN_PRESETS:
            raise InvalidPresets(f"{where}: a preset cannot set {key}.")
        if key not in (*ABOUT, *VALUES):
            close = difflib.get_close_matches(key, (*ABOUT, *VALUES), n=1)
            hint = f"did you mean {close[0]}?" if close else f"choose one of: {', '.join((*ABOUT, *VALUES))}"
            raise InvalidPresets(f"{where}: {key} is not an option; {hint}")
        if key in ABOUT and not isinstance(value, str):
            raise InvalidPresets(f"{where}: {key} is not text.")
    values = OptionValues(**{key: value for key, value in table.items() if key in VALUES})
    try:
        to_options(values)
    except InvalidOptions as error:
        raise InvalidPresets(f"{where}: {error}") from None
    about = {key: value for key, value in table.items() if key in ABOUT}
    return Preset(name, values=values, **{"title": name, **about})
