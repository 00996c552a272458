"""Streaming parser for multipart forms: yields one part after another and keeps only one in memory."""

import io
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

# Limits for a form's fields that are not files.
MOST_FIELDS, LARGEST_FIELD_BYTES = 50, 10_000
MOST_HEADERS = 8
# Limit for one header: a file name of 1000 characters may take 12 bytes per character.
LONGEST_HEADER_BYTES = 16_000


class BrokenForm(Exception):
    """A body is not a valid form, or is incomplete; the message says what is wrong."""


@dataclass(frozen=True)
class Head:
    """Head of a part: the name of its field and, if it has one, its file name as sent."""

    name: str
    file_name: str | None

    @property
    def clean_name(self) -> str:
        """The file name as sent, with NUL replaced, which PostgreSQL cannot store; empty if there is none."""
        return (self.file_name or "").replace("\0", "\N{REPLACEMENT CHARACTER}")


class PartTooLarge(Exception):
    """A part exceeds its size limit."""

    def __init__(self, head: Head, most_bytes: int) -> None:
        super().__init__(f"{head.name} is larger than {most_bytes} bytes")
        self.head = head
        self.most_bytes = most_bytes


@dataclass(frozen=True)
class Part:
    """A complete part."""

    head: Head
    data: bytes = field(repr=False)


async def read_parts(
    chunks: AsyncIterable[bytes], content_type: str, limit: Callable[[Head], int]
) -> AsyncIterator[Part]:
    """Read a form part by part. `limit` returns the size limit in bytes of the part with this head; it may raise.

    Raises:
        BrokenForm: the body is not a valid form, or is incomplete.
        PartTooLarge: a part exceeds its size limit.

    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise BrokenForm("This is not a form: its Content-Type is not multipart/form-data with a boundary.")
    form = _Form(limit)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.begin,
                "on_header_field": form.take_header_name,
                "on_header_value": form.take_header_value,
                "on_header_end": form.end_header,
                "on_headers_finished": form.end_head,
                "on_part_data": form.take_data,
                "on_part_end": form.end,
                "on_end": form.end_all,
            },
            max_header_count=MOST_HEADERS,
            max_header_size=LONGEST_HEADER_BYTES,
        )
        async for chunk in chunks:
            parser.write(chunk)
            while form.whole:
                yield form.whole.pop(0)
    except FormParserError as error:
        raise BrokenForm(f"The form cannot be read: {error}.") from None
    if not form.has_ended:
        raise BrokenForm("The form is incomplete: it ends too early.")


class _Form:
    """Parser callbacks that collect a form; `whole` holds the parts that are complete."""

    def __init__(self, limit: Callable[[Head], int]) -> None:
        self.whole: list[Part] = []
        self.has_ended = False
        self._limit = limit
        self.begin()

    def begin(self) -> None:
        self._disposition = b""
        self._header_name, self._header_value = b"", b""
        self._head = Head("", None)
        self._most_bytes = 0
        # `getvalue` returns the bytes without copying them.
        self._data = io.BytesIO()

    def take_header_name(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def take_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value
        self._header_name, self._header_value = b"", b""

    def end_head(self) -> None:
        self._head = read_disposition(self._disposition)
        self._most_bytes = self._limit(self._head)

    def take_data(self, data: bytes, start: int, end: int) -> None:
        if self._data.tell() + end - start > self._most_bytes:
            raise PartTooLarge(self._head, self._most_bytes)
        self._data.write(memoryview(data)[start:end])

    def end(self) -> None:
        self.whole.append(Part(self._head, self._data.getvalue()))
        self.begin()

    def end_all(self) -> None:
        self.has_ended = True


def read_disposition(value: bytes) -> Head:
    """Parse a part's `Content-Disposition`. Bytes that are not valid UTF-8 are replaced.

    Raises:
        BrokenForm: the header cannot be read, or names no field.

    """
    message = Message()
    message["Content-Disposition"] = value.decode("latin-1")
    # python-multipart strips folders from file names and does not support `filename*`. `email.message` returns the
    # latter as a tuple: character set, language, text.
    try:
        told: list[tuple[str, Any]] = message.get_params([], "Content-Disposition")
    except (
        TypeError,
        ValueError,
    ):  # it mixes numbered and whole parameters, or has numbers of thousands of digits
        raise BrokenForm("A part of the form has a Content-Disposition that cannot be read.") from None
    plain = {name: text for name, text in told if isinstance(text, str)}
    exact = {name: text for name, text in told if isinstance(text, tuple)}
    if "name" not in plain:
        raise BrokenForm("A part of the form has no name.")
    file_name = _text(plain["filename"]) if "filename" in plain else None
    if "filename" in exact:
        charset, _, text = exact["filename"]
        file_name = text if (charset or "").lower() == "iso-8859-1" else _text(text)
    return Head(_text(plain["name"]), file_name)


def _text(latin: str) -> str:
    return latin.encode("latin-1", "replace").decode("utf-8", "replace")
