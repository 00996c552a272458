"""The bodies of `POST /remove`, a form with a photo or its web address in a form or as JSON, and of refinements."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError, field_validator
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
MULTIPART, URLENCODED, JSON = "multipart/form-data", "application/x-www-form-urlencoded", "application/json"
REFINEMENT_WANTED = (
    "Send the hints as a form, as in `curl -F dropMask=@strokes.png`, or as JSON with Content-Type: application/json,"
    ' as in `curl --json \'{"drop": "50% 40%"}\'`.'
)
FILES = (PHOTO, backgrounds.PART, *strokes.PARTS)
# For OpenAPI.
SCHEMAS = "#/components/schemas/{model}"
CLOSED = {"type": "object", "additionalProperties": False}
DESCRIBED_FILES = {
    name: {"type": "string", "format": "binary", "description": description}
    for name, description in {
        PHOTO: "the photo file",
        backgrounds.PART: "a picture to put behind the cut-out",
        "keepMask": "a picture, stretched to the photo, with white strokes on what stays or is added",
        "dropMask": "such a picture with white strokes on what goes",
    }.items()
}


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


# The options of the first removal that stay when its result is refined: they decide what the network is shown.
NOT_REFINED = ("tier", "roi", "box", "keep_profile", "max_megapixels", "animation")
# In megapixels. A larger one would take as long as the result itself.
MOST_OF_A_VIEW = 2.0


class RefinementForm(OptionsForm):
    """The fields of `POST /jobs/{jobId}/refine`: the hints, all of them, and what of the result is to be different."""

    @field_validator(*NOT_REFINED, mode="before")
    @classmethod
    def _stays(cls, _: object) -> None:
        raise ValueError(
            "this stays as it was in the first removal; leave it out, or send the photo to /remove again"
        )


class ViewForm(RefinementForm):
    """The fields of `POST /jobs/{jobId}/refine/view`: those of a refinement, and the size of the picture."""

    view_megapixels: Annotated[
        float,
        Field(
            ge=0.01,
            le=MOST_OF_A_VIEW,
            allow_inf_nan=False,
            description="a larger picture is scaled down to this many megapixels",
        ),
    ] = 0.5


Form = TypeVar("Form", bound=OptionsForm)
Refinement = TypeVar("Refinement", bound=RefinementForm)


@dataclass(frozen=True)
class Received:
    """The body of a request: its fields, its files by the names of their parts, and the name of the photo's file."""

    form: RemovalForm
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    name: str | None = None

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
    form, files, names = await _read_form(request, RemovalForm, FILES, largest_bytes, PHOTO_WANTED)
    received = Received(form, files, names.get(PHOTO))
    if (received.photo is None) == (form.image_url is None):
        raise InvalidInputError(PHOTO_WANTED)
    return received


async def read_refinement(
    request: Request, largest_bytes: int, kind: type[Refinement]
) -> tuple[Refinement, Mapping[str, bytes]]:
    """Read the body of a refinement, or of a view of one, to its end. Return its fields, and its files by the names of their parts.

    Raises:
        InvalidInputError: the body is no such form, has a file of more than `largest_bytes`, or several backgrounds.
        RequestValidationError: a field is wrong.

    """
    # Without a body the hints are none, so one that cannot be read must not count as none.
    if _media_type(request) not in (MULTIPART, URLENCODED, JSON) and await request.body():
        raise InvalidInputError(f"The body is neither a form nor JSON. {REFINEMENT_WANTED}")
    form, files, _ = await _read_form(request, kind, FILES, largest_bytes, REFINEMENT_WANTED)
    if PHOTO in files:
        raise InvalidInputError(f"{PHOTO}: the photo is that of the first removal; leave this out")
    return form, files


async def _read_form(
    request: Request, kind: type[Form], file_parts: Collection[str], largest_bytes: int, wanted: str
) -> tuple[Form, dict[str, bytes], dict[str, str]]:
    media_type = _media_type(request)
    files: dict[str, bytes] = {}
    names: dict[str, str] = {}
    try:
        if media_type == JSON:
            form = kind.model_validate_json(await request.body(), strict=True, by_alias=True, by_name=False)
        else:
            if media_type == MULTIPART:
                values, files, names = await read_fields_and_files(request, file_parts, largest_bytes, wanted)
            else:
                known = {field.alias for field in kind.model_fields.values()}
                values = await _read_fields(request, known)
            form = kind.model_validate(values, by_alias=True, by_name=False)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None
    except ClientDisconnect:
        raise InvalidInputError("The body is incomplete: it ends too early.") from None
    backgrounds.require_one(form.background, form.background_image_url, has_part=backgrounds.PART in files)
    return form, files, names


def describe_removal() -> dict[str, Any]:
    """Describe the body for OpenAPI: as a form, and as JSON."""
    schema = RemovalForm.model_json_schema(ref_template=SCHEMAS)
    url = {key: value for key, value in schema["properties"]["imageUrl"].items() if key == "description"}
    fields = {**schema["properties"], "imageUrl": {"type": "string", "maxLength": LONGEST_URL, **url}}
    return {
        MULTIPART: {
            "schema": {
                **CLOSED,
                "properties": DESCRIBED_FILES | fields,
                "oneOf": [{"required": [PHOTO]}, {"required": ["imageUrl"]}],
                "examples": [{PHOTO: "photo.jpg", "tier": "standard"}],
            }
        },
        JSON: {
            "schema": {
                **CLOSED,
                "properties": fields,
                "required": ["imageUrl"],
                "examples": [{"imageUrl": "https://example.com/photo.jpg", "tier": "standard"}],
            }
        },
    }


def describe_refinement(kind: type[RefinementForm] = RefinementForm) -> dict[str, Any]:
    """Describe the body of a refinement for OpenAPI: as a form, and as JSON."""
    schema = kind.model_json_schema(ref_template=SCHEMAS)
    stays = {RefinementForm.model_fields[name].alias for name in NOT_REFINED}
    fields = {name: value for name, value in schema["properties"].items() if name not in stays}
    files = {name: value for name, value in DESCRIBED_FILES.items() if name != PHOTO}
    return {
        MULTIPART: {
            "schema": {**CLOSED, "properties": files | fields, "examples": [{"dropMask": "strokes.png"}]}
        },
        JSON: {"schema": {**CLOSED, "properties": fields, "examples": [{"keep": "50% 40%"}]}},
    }


async def read_fields_and_files(
    request: Request, file_parts: Collection[str], largest_bytes: int, wanted: str = PHOTO_WANTED
) -> tuple[dict[str, str], dict[str, bytes], dict[str, str]]:
    """Read a multipart form to its end: its fields, its files, which are the parts of these names, and the names that
    the files have. `wanted` tells a caller how a form is sent.

    Raises:
        InvalidInputError: the form is broken, or a part is too large or is sent twice.

    """
    values: dict[str, str] = {}
    files: dict[str, bytes] = {}
    file_names: dict[str, str] = {}
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
                if part.head.file_name:
                    file_names[part.head.name] = part.head.clean_name
    except BrokenForm as error:
        raise InvalidInputError(f"{error} {wanted}") from None
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
    return values, files, file_names


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


async def _read_fields(request: Request, known: Collection[str | None]) -> dict[str, str]:
    """Read a form without a file, as `curl -d imageUrl=…` sends it. An empty value stands for a known field's default."""
    sent = (await request.form()).multi_items()
    names = [name for name, _ in sent]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInputError(f"{', '.join(twice)}: send this field only once")
    return {name: value for name, value in sent if isinstance(value, str) and (value or name not in known)}


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{name}: send text in UTF-8") from None
