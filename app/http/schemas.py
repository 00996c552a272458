"""Base classes and types of request and response schemas. Field names in JSON are camelCase."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, Strict, field_validator
from pydantic.alias_generators import to_camel

from cutout.app.core.schema import Schema
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import parse_colour
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

# PostgreSQL cannot store NUL characters in text.
NO_NUL = "^[^\0]*$"
LONGEST_WORD = 50


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("give a time between the years 1 and 9999 in UTC") from None


# A time with an offset, as sent by clients; converted to UTC.
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Body(Schema):
    """Base of JSON request bodies. Types are strict (a number cannot be sent as text); unknown fields are errors."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=False, validate_by_alias=True)


# Not strict, because JSON can represent a UUID only as text.
IdBody = Annotated[uuid.UUID, Strict(False)]


class OptionsForm(BaseModel):
    """Options of a removal. An unknown field is an error; it is not ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tier: Tier = Tier.BASIC
    format: Annotated[
        Format | None, Field(description="Output format. Default: the format named by `Accept`, else `png`.")
    ] = None
    mask_only: Annotated[bool, Field(description="Return only the alpha matte, as a greyscale image.")] = (
        False
    )
    # Error messages repeat the value, so its length is limited in case an image is sent in this field by mistake.
    background: Annotated[
        str | None,
        Field(max_length=LONGEST_WORD, description="Opaque background colour, such as `white` or `#ffffff`."),
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="Encoder quality for WebP, AVIF and JPEG.")] = 90

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str | None) -> str | None:
        try:
            parse_colour(value or "white")
        except InvalidOptions as error:
            raise ValueError(str(error)) from None
        return value

    def options(self, accepted: Format | None = None) -> Options:
        """Return the options; `accepted` is the output format if `format` is not given."""
        return Options(
            tier=self.tier,
            format=self.format or accepted or Format.PNG,
            mask_only=self.mask_only,
            background=parse_colour(self.background) if self.background else None,
            quality=self.quality,
        )
