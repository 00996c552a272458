"""Bodies of requests for other APIs: multipart forms, forms in one line, and JSON, any of them with a photo."""

import asyncio
from collections.abc import Collection
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import Request
from starlette.requests import ClientDisconnect

from cutout.app.compat.errors import CompatInputError
from cutout.app.compat.fields import Fields, decode_base64, is_absent
from cutout.app.http.multipart import (
    LARGEST_FIELD_BYTES,
    MOST_FIELDS,
    BrokenForm,
    Head,
    PartTooLarge,
    read_parts,
)
from cutout.app.http.problem_details import upload_too_large
from cutout.inference.json_text import InvalidJson, read_json

# Decoding more than this is not done between the requests of others.
MOST_AT_ONCE_BYTES = 500_000
# What base64 and a `data:` prefix are escaped to in a form. Python's own function makes an object for each escape.
ESCAPES = {b"+": b"2B", b"/": b"2F", b"=": b"3D", b":": b"3A", b";": b"3B", b",": b"2C", b" ": b"20"} | {
    b"\n": b"0A",
    b"\r": b"0D",
}


# A JSON body has few values, and base64 has none of these characters. The parser makes an object of each value and of the
# text before each escape, and lets no other thread run meanwhile.
SEPARATORS, MOST_SEPARATORS = (b",", b"[", b"{", b"\\"), 5000


class BodyReader:
    """Reads the bodies of an API, in which some fields are `files`, and some are `encoded` files, in base64.

    Unknown fields are passed over. Of a text that comes more than once, the last one counts.
    """

    def __init__(self, largest_bytes: int, files: Collection[str], encoded: Collection[str] = ()) -> None:
        self._largest_bytes = largest_bytes
        self._files = files
        self._encoded = encoded

    async def read(self, request: Request) -> Fields:
        """Read a body to its end.

        Raises:
            CompatInputError: the body cannot be read, or a field is too long.
            ImageTooLargeError: a file has too many bytes.

        """
        kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
        try:
            if kind == "multipart/form-data":
                return await self._read_parts(request)
            data = bytearray()
            async for chunk in request.stream():
                data += chunk
        except ClientDisconnect:
            raise _unreadable("The body is incomplete: it ends too early.") from None
        read = self._read_json if kind == "application/json" else self._read_line
        if len(data) > MOST_AT_ONCE_BYTES:
            return await asyncio.to_thread(read, data)
        return read(data)

    async def _read_parts(self, request: Request) -> Fields:
        pairs: list[tuple[str, bytes]] = []
        files: dict[str, bytes] = {}
        repeated = set[str]()
        count = 0

        def limit(head: Head) -> int:
            nonlocal count
            count += 1
            if count > MOST_FIELDS:
                raise _unreadable(f"The form has more than {MOST_FIELDS} fields.")
            return 2 * self._largest_bytes if head.name in self._encoded else self._largest_bytes

        try:
            async for part in read_parts(request.stream(), request.headers["content-type"], limit):
                name, data = part.head.name, part.data
                if name not in self._files:
                    pairs.append((name, data))
                elif part.head.file_name or not (len(data) < 20 and is_absent(data.decode("latin-1"))):
                    if name in files:
                        repeated.add(name)
                    files[name] = data
        except BrokenForm as error:
            raise _unreadable(str(error)) from None
        except PartTooLarge:
            raise upload_too_large(self._largest_bytes) from None
        if sum(len(data) for _, data in pairs) > MOST_AT_ONCE_BYTES:
            return await asyncio.to_thread(self._fields, pairs, files, frozenset(repeated))
        return self._fields(pairs, files, frozenset(repeated))

    def _read_json(self, data: bytearray) -> Fields:
        if len(data) > MOST_AT_ONCE_BYTES:
            data = _without_escapes(data)
        if sum(map(data.count, SEPARATORS)) > MOST_SEPARATORS:
            raise _unreadable("The body has too many values.")
        try:
            body: Any = read_json(data)
        except InvalidJson:
            body = None
        del data[:]
        if not isinstance(body, dict):
            raise _unreadable("The body is not a JSON object in UTF-8.")
        pairs = [(name, _as_text(value)) for name, value in body.items() if value is not None]
        body.clear()
        return self._fields(pairs, {}, frozenset())

    def _read_line(self, data: bytearray) -> Fields:
        """Read a form in one line, as `curl -d` sends it."""
        if data.count(b"&") >= MOST_FIELDS:
            raise _unreadable(f"The form has more than {MOST_FIELDS} fields.")
        pairs = []
        for item in data.split(b"&"):
            name, _, value = item.partition(b"=")
            pairs.append((_unescape(name).decode("utf-8", "replace"), _unescape(value)))
        return self._fields(pairs, {}, frozenset())

    def _fields(
        self, pairs: list[tuple[str, bytes]], files: dict[str, bytes], repeated: frozenset[str]
    ) -> Fields:
        """Sort what was sent into texts and files."""
        texts: dict[str, str] = {}
        pairs.reverse()
        while pairs:  # so that an encoded file is let go once it is decoded
            name, data = pairs.pop()
            if name in self._encoded:
                if len(data) < 20 and is_absent(data.decode("latin-1")):
                    continue
                if name in files:
                    repeated |= {name}
                files[name] = decode_base64(name, data)
                if len(files[name]) > self._largest_bytes:
                    raise upload_too_large(self._largest_bytes)
            else:
                text = data[:LARGEST_FIELD_BYTES].decode("utf-8", "replace")
                texts.pop(name, None)
                if not is_absent(text):
                    texts[name] = text
        return Fields(texts, files, repeated)


def _without_escapes(data: bytearray) -> bytearray:
    """Return a JSON body without the escapes that base64 may have: of slashes, as PHP writes them, and line breaks."""
    if (
        b"\\\\" in data
    ):  # an escaped backslash, which base64 has not; what follows it may look like one of these
        return data
    return data.replace(b"\\/", b"/").replace(b"\\r", b"").replace(b"\\n", b"")


def _as_text(value: object) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    return str(value).encode("utf-8", "replace")


def _unescape(text: bytearray) -> bytes:
    if len(text) <= LARGEST_FIELD_BYTES:
        return unquote_to_bytes(bytes(text.replace(b"+", b" ")))
    if b"%" in text:
        for character, escape in ESCAPES.items():
            text = text.replace(b"%" + escape, character).replace(b"%" + escape.lower(), character)
    return bytes(text)


def _unreadable(why: str) -> CompatInputError:
    return CompatInputError(f"{why} Send a form or JSON with one photo.", "missing_source")
