"""The form of `POST /batch`: read as it comes, each photo stored before the next is read."""

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import Field, ValidationError
from starlette.requests import ClientDisconnect

from cutout.app.batches import service as batches
from cutout.app.batches.service import BatchRequest
from cutout.app.batches.upload import BatchUpload
from cutout.app.billing import ledger, pricing
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.billing.pricing import LARGEST_BATCH, SMALLEST_BATCH
from cutout.app.core.errors import ImageTooLargeError, InvalidInputError, ServiceError
from cutout.app.db.session import Database
from cutout.app.http.multipart import (
    LARGEST_FIELD_BYTES,
    MOST_FIELDS,
    BrokenForm,
    Head,
    PartTooLarge,
    read_parts,
)
from cutout.app.http.schemas import OptionsForm
from cutout.app.notifications.outbox import Outbox
from cutout.inference.imaging.encode import Format
from cutout.inference.tiers import Tier

PHOTOS = "images"

FORM_WANTED = f"Send a form with each photo as {PHOTOS}, as `curl -F {PHOTOS}=@photo.jpg -F {PHOTOS}=@another.jpg` does."


class BatchForm(OptionsForm):
    """The fields of `POST /batch` beside its photos."""

    format: Annotated[Format, Field(description="of the pictures")] = Format.PNG
    image_count: Annotated[int | None, Field(description="how many photos these are, to be sure of it")] = (
        None
    )
    webhook_url: Annotated[str | None, Field(description="is told of the batch's end")] = None
    notify_email: Annotated[str | None, Field(description="is told of the batch's end")] = None

    def order(self) -> BatchRequest:
        """Return what is asked for."""
        return BatchRequest(self.options(), self.webhook_url, self.notify_email)


KNOWN = {field.alias for field in BatchForm.model_fields.values()}


class Fields:
    """The fields that have come so far, each looked at as it comes: what is wrong is said before the rest is sent."""

    def __init__(self, office: Outbox, own_email: str | None) -> None:
        self.form = BatchForm()
        check_email = partial(office.check_email, own=own_email)
        self._checks: dict[str, Callable[[str], str]] = {
            "webhookUrl": office.check_webhook_url,
            "notifyEmail": check_email,
        }
        self._names: set[str] = set()
        self._values: dict[str, str] = {}

    def expect(self, name: str) -> None:
        """Return if a field of this name may come.

        Raises:
            InvalidInputError: it came before, or there is no room for it.

        """
        if name in self._names:
            raise InvalidInputError(f"{name}: send it once")
        if len(self._names) == MOST_FIELDS:
            raise InvalidInputError(f"The form has more than {MOST_FIELDS} fields.")
        self._names.add(name)

    @property
    def tier(self) -> Tier | None:
        """The tier that is asked for; None while its field may still come."""
        return self.form.tier if "tier" in self._values else None

    def take(self, name: str, data: bytes) -> None:
        """Take a field in; an empty one stands for its default.

        Raises:
            InvalidInputError: it is no text.
            RequestValidationError: there is no such field, or it cannot have this value.
            CannotNotify: nobody can be told there.

        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(f"{name}: send text in UTF-8") from None
        if not text and name in KNOWN:
            return
        self._values[name] = self._checks[name](text) if name in self._checks else text
        try:
            self.form = BatchForm.model_validate(self._values, by_alias=True, by_name=False)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None


class Funds:
    """What a user can pay of a batch while it comes in."""

    def __init__(self, database: Database, user_id: uuid.UUID, balance: int) -> None:
        self._database = database
        self._user_id = user_id
        self._balance = balance

    async def require(self, tier: Tier | None, images: int) -> None:
        """Return if the balance covers a batch of so many images, or of some number greater than that.

        Raises:
            InsufficientCredits: it does not.

        """
        least = pricing.least_price(tier, images)
        if least > self._balance:
            # Credits may have been bought since.
            self._balance = await asyncio.to_thread(
                self._database.run_read_only, ledger.balance, self._user_id
            )
            if least > self._balance:
                raise InsufficientCredits(least, self._balance, at_least=True)


async def read_batch(
    request: Request,
    intake: BatchUpload,
    office: Outbox,
    largest_bytes: int,
    own_email: str | None,
    funds: Funds | None,
) -> BatchForm:
    """Read the body to its end and store its photos; `largest_bytes` is what one may have.

    `own_email` is the user's. A batch that the user cannot pay is not read on; without `funds` nothing is looked at.

    Raises:
        InvalidInputError: the body is no such form.
        ImageTooLargeError: a photo is too large.
        RequestValidationError: a field is wrong.
        CannotNotify: nobody can be told where a field says.
        WrongBatchSize: these are too few photos or too many, or not as many as the form says.
        InsufficientCredits: the photos that have come cost more than the user has.
        StorageError: a photo cannot be stored.

    """
    fields, photos = Fields(office, own_email), 0

    def limit(head: Head) -> int:
        nonlocal photos
        if head.name != PHOTOS:
            fields.expect(head.name)
            return LARGEST_FIELD_BYTES
        photos += 1
        if photos > LARGEST_BATCH:
            batches.require_size(photos)
        return largest_bytes

    try:
        async for part in read_parts(request.stream(), request.headers.get("content-type", ""), limit):
            is_photo = part.head.name == PHOTOS
            if not is_photo:
                fields.take(part.head.name, part.data)
            elif (
                not part.data and not part.head.file_name
            ):  # a browser's for a field in which no file was chosen
                photos -= 1
                is_photo = False
            if funds is not None:
                await funds.require(fields.tier, max(photos, fields.form.image_count or 0))
            if is_photo:
                await intake.add(name_of(part.head), part.data)
            del part  # it would stay while the next one comes
    except BrokenForm as error:
        raise InvalidInputError(f"{error} {FORM_WANTED}") from None
    except PartTooLarge as error:
        raise _too_large(error, photos) from None
    except ClientDisconnect:
        raise InvalidInputError("The form breaks off before its end.") from None
    batches.require_size(photos, fields.form.image_count)
    return fields.form


def name_of(head: Head) -> str:
    """Return the name of a photo's file as it is kept: as it was sent, but for what PostgreSQL keeps not."""
    return (head.file_name or "").replace("\0", "\N{REPLACEMENT CHARACTER}")


def describe_form() -> dict[str, Any]:
    """Describe the form for OpenAPI."""
    schema = BatchForm.model_json_schema(ref_template="#/components/schemas/{model}")
    photos = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": SMALLEST_BATCH,
        "maxItems": LARGEST_BATCH,
        "description": "the photos' files",
    }
    return {
        "type": "object",
        "properties": {PHOTOS: photos, **schema["properties"]},
        "required": [PHOTOS],
        "additionalProperties": False,
        "examples": [{PHOTOS: ["photo.jpg", "another.jpg"], "tier": "standard", "imageCount": 2}],
    }


def _too_large(error: PartTooLarge, photos: int) -> ServiceError:
    if error.head.name != PHOTOS:
        return InvalidInputError(
            f"{error.head.name}: send at most {error.most_bytes // 1000} kB, and files as {PHOTOS}",
        )
    which = repr(error.head.file_name) if error.head.file_name else f"Photo {photos}"
    return ImageTooLargeError(
        f"{which} is larger than {error.most_bytes // 1_000_000} MB. Send a smaller file."
    )
