"""JSON that somebody else wrote, read so that no text does more than raise one kind of error."""

import json
from collections.abc import Callable
from typing import Any


class InvalidJson(ValueError):
    """A text is not JSON, or nested too deeply; the message says where, and does not repeat the text."""


class Number(str):
    """A number as it is written. Nothing is computed of it, however many digits it has; it may be NaN."""

    __slots__ = ()


def read_json(data: bytes | bytearray, to_object: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """Read JSON in UTF-8, UTF-16 or UTF-32; numbers become `Number`.

    `to_object` makes an object of its names and values, among which a name may come more than once.

    Raises:
        InvalidJson: the text is not JSON.

    """
    try:
        return json.loads(
            data, parse_int=Number, parse_float=Number, parse_constant=Number, object_pairs_hook=to_object
        )
    except json.JSONDecodeError as error:
        raise InvalidJson(
            f"It is not JSON: {error.msg}, in line {error.lineno}, column {error.colno}."
        ) from None
    except UnicodeDecodeError:
        raise InvalidJson("It is not JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidJson("It has too many brackets within each other.") from None
