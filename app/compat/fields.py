"""The fields of a request that was written for another API: from their texts to values."""

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from cutout.app.compat.errors import CompatInputError
from cutout.inference.errors import InvalidOptions

Value = TypeVar("Value")

# Clients that send a field which is not set send one of these.
ABSENT = {"", "undefined", "null"}
FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
LONGEST_TEXT, LONGEST_URL = 200, 2048
URL_SAFE = bytes.maketrans(b"-_ ", b"+/+")


@dataclass(frozen=True)
class Fields:
    """The fields of a body. Fields that are not set are left out.

    `files` holds the bytes of files, also of those that came as base64. `repeated` names files that came more than once.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    repeated: frozenset[str] = frozenset()

    def parse(self, name: str, parse: Callable[[str], Value], default: Value) -> Value:
        """Return the value of a text field.

        Raises:
            CompatInputError: `parse` raises InvalidOptions, or the text is too long; with the code invalid_<name>.

        """
        text = self.texts.get(name)
        if text is None:
            return default
        if len(text) > LONGEST_TEXT:
            raise CompatInputError(f"{name}: send at most {LONGEST_TEXT} characters.", f"invalid_{name}")
        try:
            return parse(text)
        except InvalidOptions as error:
            raise CompatInputError(f"{name}: {error}", f"invalid_{name}") from None

    def choose(self, name: str, choices: Mapping[str, Value], default: Value) -> Value:
        """Return the value of a field that has one of a few texts, in any case."""
        return self.parse(name, lambda text: _choice(text, choices), default)

    def flag(self, name: str, texts: Mapping[str, bool] = FLAGS) -> bool:
        """Return the value of a field that is true or false; false if it is not set."""
        return self.choose(name, texts, False)

    def number(self, name: str, least: float, most: float, default: float) -> float:
        """Return the value of a field that is a number from `least` to `most`."""
        return self.parse(name, lambda text: _number(text, least, most), default)


def is_absent(text: str) -> bool:
    """Tell whether the text of a field says that the field is not set."""
    return text.strip().lower() in ABSENT


def decode_base64(name: str, text: bytes) -> bytes:
    """Decode a file that came as base64, with or without a `data:` prefix, padding and line breaks.

    A space stands for +, as which a form without escaping reads it.

    Raises:
        CompatInputError: it is not base64.

    """
    text = text.strip()
    if text[:5].lower() == b"data:":
        text = text[text.find(b",", 0, 200) + 1 :]
    text = text.translate(URL_SAFE, b"\r\n\t").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise CompatInputError(
            f"{name}: This is not base64. Send the file's bytes in base64, or the file itself.",
            "failed_to_read_image",
        ) from None


def _choice(text: str, choices: Mapping[str, Value]) -> Value:
    known = {name.lower(): value for name, value in choices.items()}
    if text.strip().lower() not in known:
        raise InvalidOptions(f"{text!r} is not possible. Send one of: {', '.join(choices)}.")
    return known[text.strip().lower()]


def _number(text: str, least: float, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not least <= value <= most:
        raise InvalidOptions(f"{text!r} is not possible. Send a number from {least:g} to {most:g}.")
    return value
