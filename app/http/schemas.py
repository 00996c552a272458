"""What the API takes and gives. JSON is camelCase."""

import uuid
from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, Strict, field_validator
from pydantic.alias_generators import to_camel

from cutout.app.core.schema import Schema
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options, parse_colour
from cutout.inference.tiers import Tier

# PostgreSQL keeps no NUL.
NO_NUL = "^[^\0]*$"
LONGEST_WORD = 50


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError("give a time between the years 1 and 9999 in UTC") from None


# As a caller writes one.
UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Body(Schema):
    """Base of what callers send as JSON: a number is a number, and a field of another name is an error."""

    model_config = ConfigDict(strict=True, extra="forbid", validate_by_name=False, validate_by_alias=True)


# Which JSON has as text.
IdBody = Annotated[uuid.UUID, Strict(False)]


class OptionsForm(BaseModel):
    """The fields that say what to make of a photo. A field of another name is an error, not a silent default."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid")

    tier: Tier = Tier.BASIC
    format: Annotated[Format | None, Field(description="default: what `Accept` names, else `png`")] = None
    mask_only: Annotated[bool, Field(description="the alpha itself, as a grey picture")] = False
    # An error repeats it, and shall not repeat a picture that was sent in its place.
    background: Annotated[
        str | None,
        Field(max_length=LONGEST_WORD, description="an opaque colour, such as `white` or `#ffffff`"),
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="of WebP, AVIF and JPEG")] = 90

    @field_validator("background")
    @classmethod
    def _is_colour(cls, value: str | None) -> str | None:
        try:
            parse_colour(value or "white")
        except InvalidOptions as error:
            raise ValueError(str(error)) from None
        return value

    def options(self, accepted: Format | None = None) -> Options:
        """Return what is asked for; `accepted` is the format where none is named."""
        return Options(
            tier=self.tier,
            format=self.format or accepted or Format.PNG,
            mask_only=self.mask_only,
            background=parse_colour(self.background) if self.background else None,
            quality=self.quality,
        )
