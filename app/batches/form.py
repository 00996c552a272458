"""The multipart form of `POST /batch`, parsed as a stream: each photo is stored before the next one is read."""

import asyncio
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import AfterValidator, Field, PrivateAttr, ValidationError
from pydantic.alias_generators import to_camel
from starlette.requests import ClientDisconnect

from cutout.app.batches import service as batches
from cutout.app.batches.service import BatchRequest
from cutout.app.batches.upload import BatchUpload
from cutout.app.billing import ledger, pricing
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.billing.pricing import LARGEST_BATCH, SMALLEST_BATCH
from cutout.app.core.errors import ImageTooLargeError, InvalidInputError, ServiceError
from cutout.app.db.session import Database
from cutout.app.http import backgrounds, strokes
from cutout.app.http.multipart import (
    LARGEST_FIELD_BYTES,
    MOST_FIELDS,
    BrokenForm,
    Head,
    Part,
    PartTooLarge,
    read_parts,
)
from cutout.app.http.schemas import OptionsForm
from cutout.app.notifications.outbox import Outbox
from cutout.app.stores import addresses
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.hints import Hints
from cutout.inference.limits import SizeLimits
from cutout.inference.option_values import AnimationName, OptionValues, as_background
from cutout.inference.photo_hints import assign, parse_photo_hints, require_photos
from cutout.inference.presets import Presets
from cutout.inference.tiers import SOLD, Tier

PHOTOS, STORE, HINTS = "images", "storeUrl", "hints"
LARGEST_HINTS_BYTES = 500_000

FORM_WANTED = (
    f"Send a form with each photo in the field {PHOTOS}, as in"
    f" `curl -F {PHOTOS}=@photo.jpg -F {PHOTOS}=@another.jpg`."
)


def _sold(tier: Tier) -> Tier:
    if tier not in SOLD:
        raise ValueError(
            f"{tier} is for single photos: send each to /api/background-remover/remove, or choose one of: {', '.join(SOLD)}"
        )
    return tier


def _first_only(animation: AnimationName) -> AnimationName:
    if animation != "first":
        raise ValueError(
            "a batch takes the first frame of an animation; send each animation to /api/background-remover/remove"
        )
    return animation


class BatchForm(OptionsForm):
    """The fields of `POST /batch`, without the photos."""

    tier: Annotated[Tier, AfterValidator(_sold)] = Tier.BASIC
    animation: Annotated[AnimationName, AfterValidator(_first_only)] = "first"
    image_count: Annotated[
        int | None,
        Field(
            description="number of photos in the form; the batch is rejected if it differs from the photos received"
        ),
    ] = None
    webhook_url: Annotated[
        str | None, Field(description="URL that receives a POST request when the batch finishes")
    ] = None
    notify_email: Annotated[
        str | None, Field(description="e-mail address that is notified when the batch finishes")
    ] = None

    # One for each photo. The form may have its field more than once, as it has that of the photos.
    _store_urls: tuple[str, ...] = PrivateAttr(())
    # One for each photo, from the part with hints by file name; or none at all.
    _hints: tuple[Hints | None, ...] = PrivateAttr(())

    def to_request(self, presets: Presets, background: Picture | None) -> BatchRequest:
        """Return the batch request that the fields describe; `background` is the picture that was sent.

        Raises:
            InvalidOptions: an option has no effect beside the others.

        """
        options = presets.options(self.values(background_image=background), to_camel)
        return BatchRequest(options, self.webhook_url, self.notify_email, self._store_urls, self._hints)


KNOWN = {field.alias for field in BatchForm.model_fields.values()}


class Fields:
    """The fields received so far. Each is validated on arrival, so an error is reported before the rest is sent."""

    def __init__(
        self,
        outbox: Outbox,
        own_email: str | None,
        presets: Presets,
        check_store: Callable[[str], str] | None = None,
    ) -> None:
        """Check notifications by `outbox`; `check_store` returns an address for results as it is kept."""
        self.form = BatchForm()
        self.store_urls: list[str] = []
        self.hints: dict[str, Hints] = {}
        self._check_store = check_store
        self._stores_sent = 0
        check_email = partial(outbox.check_email, own=own_email)
        self._checks: dict[str, Callable[[str], str]] = {
            "webhookUrl": outbox.check_webhook_url,
            "notifyEmail": check_email,
            "preset": lambda name: self._known_preset(presets, name),
        }
        self._names: set[str] = set()
        self._values: dict[str, str] = {}

    def expect(self, name: str) -> None:
        """Return if a field of this name is acceptable.

        Raises:
            InvalidInputError: the field was sent before, the form has too many fields, or the field is of one photo.

        """
        if name == STORE:
            self._stores_sent += 1
            if self._stores_sent > LARGEST_BATCH:
                raise InvalidInputError(f"{name}: send at most {LARGEST_BATCH} addresses, one for each photo")
            return
        if name in strokes.PARTS:
            raise InvalidInputError(
                f"{name}: the options of a batch hold for every photo, and strokes are of one. Send photos with strokes"
                " one by one to /remove."
            )
        if name in self._names:
            raise InvalidInputError(f"{name}: send this field only once")
        if len(self._names) == MOST_FIELDS:
            raise InvalidInputError(f"The form has more than {MOST_FIELDS} fields.")
        self._names.add(name)

    @property
    def tier(self) -> Tier | None:
        """The requested tier; None until its field has been received."""
        return self.form.tier if "tier" in self._values else None

    def take(self, name: str, data: bytes) -> None:
        """Validate and store a field; an empty value selects the field's default.

        Raises:
            InvalidInputError: the value is not UTF-8 text.
            RequestValidationError: there is no such field, or the value is invalid.
            InvalidOptions: there is no such preset.
            CannotNotify: no notification can be sent to this address.
            CannotStore: no result can be stored at this address.

        """
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise InvalidInputError(f"{name}: send text in UTF-8") from None
        if not text and name in (*KNOWN, STORE):
            return
        if name == STORE and self._check_store is not None:
            self.store_urls.append(self._check_store(text))
            return
        self._values[name] = self._checks[name](text) if name in self._checks else text
        try:
            self.form = BatchForm.model_validate(self._values, by_alias=True, by_name=False)
        except ValidationError as error:
            raise RequestValidationError(error.errors(include_url=False, include_input=False)) from None

    def take_hints(self, data: bytes) -> None:
        """Validate and store the hints by file name.

        Raises:
            InvalidInputError: they are not JSON, or one cannot be used.

        """
        try:
            self.hints = parse_photo_hints(data, LARGEST_BATCH)
        except InvalidOptions as error:
            raise InvalidInputError(f"{HINTS}: {error}") from None

    def complete(self, upload: BatchUpload) -> BatchForm:
        """Return the fields of a form whose photos, and picture for the background or none, were received.

        Raises:
            WrongBatchSize: there are too few photos or too many, or not as many as `imageCount` says.
            CannotStore: the addresses cannot hold the results of these photos.
            InvalidInputError: there are several backgrounds, or hints for a photo that was not sent.

        """
        form, names = self.form, upload.names
        batches.require_size(len(names), form.image_count)
        has_part = upload.background is not None
        backgrounds.require_one(form.background, form.background_image_url, has_part=has_part)
        if self.store_urls:
            form._store_urls = tuple(addresses.assign(self.store_urls, len(names)))
        if self.hints:
            try:
                require_photos(self.hints, names)
                form._hints = tuple(assign(self.hints, names))
            except InvalidOptions as error:
                raise InvalidInputError(f"{HINTS}: {error}") from None
        return form

    def _known_preset(self, presets: Presets, name: str) -> str:
        presets.apply(OptionValues(preset=name))
        return name


class Funds:
    """Check of a user's balance while a batch is being uploaded."""

    def __init__(self, database: Database, user_id: uuid.UUID, balance: int) -> None:
        self._database = database
        self._user_id = user_id
        self._balance = balance

    async def require(self, tier: Tier | None, images: int) -> None:
        """Return if the balance covers a batch of at least `images` photos.

        The volume discount can make a larger batch cheaper than a smaller one, so the check is against the lowest
        price.

        Raises:
            InsufficientCredits: the balance is too low.

        """
        least = pricing.least_price(tier, images)
        if least > self._balance:
            # The user may have bought credits in the meantime.
            self._balance = await asyncio.to_thread(
                self._database.run_read_only, ledger.balance, self._user_id
            )
            if least > self._balance:
                raise InsufficientCredits(least, self._balance, at_least=True)


async def read_batch(
    request: Request,
    upload: BatchUpload,
    fields: Fields,
    funds: Funds | None,
    largest_bytes: int,
    sizes: SizeLimits,
) -> BatchForm:
    """Read the request body to its end and store its photos, and the picture behind them if it is in the body.

    `largest_bytes` is the maximum size of one file; `sizes` limits the picture behind the photos. Reading stops as soon
    as the user cannot pay for the photos received; without `funds` the balance is not checked.

    Raises:
        InvalidInputError: the body is not a valid form, or has hints that cannot be used.
        ImageTooLargeError: a photo is too large.
        InvalidBackgroundError, InvalidBackground: the picture behind the photos is none, or too large.
        RequestValidationError: a field is invalid.
        CannotNotify: no notification can be sent to the address in a field.
        CannotStore: results cannot be stored at the address in a field, or at so many.
        WrongBatchSize: there are too few photos or too many, or not as many as `imageCount` says.
        InsufficientCredits: the photos received cost more credits than the user has.
        StorageError: a photo cannot be stored.

    """
    photos = 0

    def limit(head: Head) -> int:
        nonlocal photos
        if head.name != PHOTOS:
            fields.expect(head.name)
            return _most_bytes(head.name, largest_bytes)
        photos += 1
        if photos > LARGEST_BATCH:
            batches.require_size(photos)
        return largest_bytes

    try:
        async for part in read_parts(request.stream(), request.headers.get("content-type", ""), limit):
            is_photo = part.head.name == PHOTOS
            if not is_photo:
                await _take_other(part, upload, fields, sizes)
            elif _has_no_file(part):
                photos -= 1
                is_photo = False
            if funds is not None:
                await funds.require(fields.tier, max(photos, fields.form.image_count or 0))
            if is_photo:
                await upload.add(part.head.clean_name, part.data)
            del part  # else it would stay in memory while the next one is read
    except BrokenForm as error:
        raise InvalidInputError(f"{error} {FORM_WANTED}") from None
    except PartTooLarge as error:
        raise _too_large(error, photos) from None
    except ClientDisconnect:
        raise InvalidInputError("The form is incomplete: it ends too early.") from None
    # In a thread, as finding close names takes a while.
    return await asyncio.to_thread(fields.complete, upload)


def _most_bytes(name: str, largest_bytes: int) -> int:
    """Return how many bytes a field that is no photo may have; `largest_bytes` is the limit of a file."""
    if name == backgrounds.PART:
        return largest_bytes
    return LARGEST_HINTS_BYTES if name == HINTS else LARGEST_FIELD_BYTES


async def _take_other(part: Part, upload: BatchUpload, fields: Fields, sizes: SizeLimits) -> None:
    """Take a part that is no photo: a field, hints by file name, or the picture behind the photos."""
    if part.head.name not in (backgrounds.PART, HINTS):
        fields.take(part.head.name, part.data)
    elif _has_no_file(part):
        return
    elif part.head.name == HINTS:
        await asyncio.to_thread(fields.take_hints, part.data)
    else:
        picture = await asyncio.to_thread(as_background, part.data, backgrounds.PART, sizes)
        await upload.add_background(picture)


def _has_no_file(part: Part) -> bool:
    """Tell whether a browser sent the part for a file field without a file."""
    return not part.data and not part.head.file_name


def describe_form() -> dict[str, Any]:
    """Return the OpenAPI schema of the form."""
    schema = BatchForm.model_json_schema(ref_template="#/components/schemas/{model}")
    photos = {
        "type": "array",
        "items": {"type": "string", "format": "binary"},
        "minItems": SMALLEST_BATCH,
        "maxItems": LARGEST_BATCH,
        "description": "the photo files",
    }
    background = {"type": "string", "format": "binary", "description": "a picture to put behind the cut-outs"}
    stores = {
        "type": "array",
        "items": {"type": "string", "maxLength": addresses.LONGEST_URL},
        "maxItems": LARGEST_BATCH,
        "description": "where the results are stored too: s3://bucket/prefix/ or an https:// address with {name} for"
        " all, or one address that is signed for a PUT for each photo, in order",
    }
    hints = {
        "type": "string",
        "contentMediaType": "application/json",
        "description": "hints for single photos, a file or text: an object from file names to `box`, `keep`, `drop`, …,"
        " which replace those of the fields",
    }
    return {
        "type": "object",
        "properties": {
            PHOTOS: photos,
            backgrounds.PART: background,
            **schema["properties"],
            HINTS: hints,
            STORE: stores,
        },
        "required": [PHOTOS],
        "additionalProperties": False,
        "examples": [{PHOTOS: ["photo.jpg", "another.jpg"], "tier": "standard", "imageCount": 2}],
    }


def _too_large(error: PartTooLarge, photos: int) -> ServiceError:
    if error.head.name == backgrounds.PART:
        return backgrounds.too_large(error.most_bytes)
    if error.head.name == HINTS:
        return InvalidInputError(f"{HINTS}: send at most {error.most_bytes // 1000} kB of JSON")
    if error.head.name != PHOTOS:
        return InvalidInputError(
            f"{error.head.name}: send at most {error.most_bytes // 1000} kB, and send files in the field {PHOTOS}",
        )
    which = repr(error.head.file_name) if error.head.file_name else f"Photo {photos}"
    return ImageTooLargeError(
        f"{which} is larger than {error.most_bytes // 1_000_000} MB. Send a smaller file."
    )
