"""The body of `POST /remove`: a form with a photo, or its web address in a form or as JSON."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from cutout.app.core.errors import InvalidInputError
from cutout.app.http import backgrounds, strokes
from cutout.app.http.multipart import (
    LARGEST_FIELD_BYTES,
    MOST_FIELDS,
    BrokenForm,
    Head,
    PartTooLarge,
    read_parts,
)
from cutout.app.http.problem_details import PHOTO_WANTED, upload_too_large
from cutout.app.http.schemas import LONGEST_URL, OptionsForm
from cutout.app.stores.addresses import LONGEST_URL as LONGEST_STORE_URL

PHOTO = "image"
FILES = (PHOTO, backgrounds.PART, *strokes.PARTS)


class RemovalForm(OptionsForm):
    """The fields of `POST /remove` beside the photo."""

    image_url: Annotated[
        str | None,
        Field(
            max_length=LONGEST_URL,
            description="web address of the photo, http:// or https://, instead of a file",
        ),
    ] = None
    store_url: Annotated[
        str | None,
        Field(
            max_length=LONGEST_STORE_URL,
            repr=False,
            description="where the result is stored too: an https:// address that is signed for a PUT, or s3://…",
        ),
    ] = None


@dataclass(frozen=True)
class Received:
    """The body of a request: its fields, and its files by the names of their parts."""

    form: RemovalForm
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def photo(self) -> bytes | None:
        """The photo; None where a field says where it is."""
        return self.files.get(PHOTO)

    @property
    def background(self) -> bytes | None:
        """The picture behind the subject; None where there is none, or a field says where it is."""
        return self.files.get(backgrounds.PART)


async def read_removal(request: Request, largest_bytes: int) -> Received:
    """Read the body to its end.

    A part called `image` is the photo, whether or not it has a file's name: forms may leave that out (RFC 7578). The
    same holds for `backgroundImage`, `keepMask` and `dropMask`.

    Raises:
        InvalidInputError: the body is no such form, has no photo or two, one of more than `largest_bytes`, or several
            backgrounds.
        RequestValidationError: a field is wrong.

    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    files: dict[str, bytes] = {}
    try:
        if kind == "application/json":
            form = RemovalForm.model_validate_json(
                await request.body(), strict=True, by_alias=True, by_name=False
            )
        else:
            if kind == "multipart/form-data":
                values, files = await read_fields_and_files(request, FILES, largest_bytes)
            else:
                values = await _read_fields(request)
            form = RemovalForm.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    except ClientDisconnect:
        raise InvalidInputError("The body is incomplete: it ends too early.") from None
    received = Received(form, files)
    if (received.photo is None) == (form.image_url is None):
        raise InvalidInputError(PHOTO_WANTED)
    backgrounds.require_one(
        form.background, form.background_image_url, has_part=received.background is not None
    )
    return received


def describe_removal() -> dict[str, Any]:
    """Describe the body for OpenAPI: as a form, and as JSON."""
    schema = RemovalForm.model_json_schema(ref_template="#/components/schemas/{model}")
    photo = {"type": "string", "format": "binary", "description": "the photo file"}
    background = {"type": "string", "format": "binary", "description": "a picture to put behind the cut-out"}
    marks = {
        "keepMask": {
            "type": "string",
            "format": "binary",
            "description": "a picture, stretched to the photo, with white strokes on what stays or is added",
        },
        "dropMask": {
            "type": "string",
            "format": "binary",
            "description": "such a picture with white strokes on what goes",
        },
    }
    url = {key: value for key, value in schema["properties"]["imageUrl"].items() if key == "description"}
    fields = {**schema["properties"], "imageUrl": {"type": "string", "maxLength": LONGEST_URL, **url}}
    described = {"type": "object", "additionalProperties": False}
    return {
        "multipart/form-data": {
            "schema": {
                **described,
                "properties": {PHOTO: photo, backgrounds.PART: background, **marks, **fields},
                "oneOf": [{"required": [PHOTO]}, {"required": ["imageUrl"]}],
                "examples": [{PHOTO: "photo.jpg", "tier": "standard"}],
            }
        },
        "application/json": {
            "schema": {
                **described,
                "properties": fields,
                "required": ["imageUrl"],
                "examples": [{"imageUrl": "https://example.com/photo.jpg", "tier": "standard"}],
            }
        },
    }


async def read_fields_and_files(
    request: Request, file_parts: Collection[str], largest_bytes: int
) -> tuple[dict[str, str], dict[str, bytes]]:
    """Read a multipart form to its end: its fields, and its files, which are the parts of these names.

    Raises:
        InvalidInputError: the form is broken, or a part is too large or is sent twice.

    """
    values: dict[str, str] = {}
    files: dict[str, bytes] = {}
    names = set[str]()

    def limit(head: Head) -> int:
        if head.name in names:
            raise InvalidInputError(f"{head.name}: send this field only once")
        if len(names) == MOST_FIELDS:
            raise InvalidInputError(f"The form has more than {MOST_FIELDS} fields.")
        names.add(head.name)
        return largest_bytes if head.name in file_parts else LARGEST_FIELD_BYTES

    try:
        async for part in read_parts(request.stream(), request.headers["content-type"], limit):
            if part.head.name not in file_parts:
                if part.data:  # an empty one stands for its default
                    values[part.head.name] = _text(part.head.name, part.data)
            elif part.data or part.head.file_name:  # else a browser's, in which no file was chosen
                files[part.head.name] = part.data
    except BrokenForm as error:
        raise InvalidInputError(f"{error} {PHOTO_WANTED}") from None
    except ClientDisconnect:
        raise InvalidInputError("The form is incomplete: it ends too early.") from None
    except PartTooLarge as error:
        if error.head.name == PHOTO:
            raise upload_too_large(largest_bytes) from None
        if error.head.name == backgrounds.PART:
            raise backgrounds.too_large(largest_bytes) from None
        if error.head.name in strokes.PARTS and error.head.name in file_parts:
            raise strokes.too_large(error.head.name, largest_bytes) from None
        raise InvalidInputError(
            f"{error.head.name}: send at most {error.most_bytes // 1000} kB, and send the photo in the field {PHOTO}",
        ) from None
    return values, files


async def _read_fields(request: Request) -> dict[str, str]:
    """Read a form without a photo, as `curl -d imageUrl=…` sends it."""
    sent = (await request.form()).multi_items()
    names = [name for name, _ in sent]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(f"{', '.join(twice)}: send this field only once")
    return {name: value for name, value in sent if isinstance(value, str) and value}


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{name}: send text in UTF-8") from None
