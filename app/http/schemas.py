"""Base classes and types of request and response schemas. Field names in JSON are camelCase."""

import dataclasses
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    Strict,
    ValidationInfo,
    field_validator,
)
from pydantic.alias_generators import to_camel

from cutout.app.core.schema import Schema
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.hints import LONGEST_POINTS
from cutout.inference.option_values import (
    LEAST_MEGAPIXELS,
    MOST_MEGAPIXELS,
    PARSERS,
    USUAL_OPACITY,
    USUAL_QUALITY,
    AnimationName,
    FormatName,
    HolesName,
    OptionValues,
    ShadowName,
)
from cutout.inference.tiers import Tier

# PostgreSQL cannot store NUL characters in text.
NO_NUL = "^[^\0]*$"
LONGEST_WORD = 50
# Error messages repeat a text, so its length is limited in case an image is sent in such a field by mistake.
LONGEST_TEXT = 120
LONGEST_URL = 2048


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
        FormatName | None,
        Field(
            description="Output format. `auto`: PNG if anything is transparent, else JPEG. `zip`: colours and mask. "
            "Default: the format named by `Accept`, else that of the preset, else `png`."
        ),
    ] = None
    mask_only: Annotated[bool, Field(description="Return only the alpha matte, as a greyscale image.")] = (
        False
    )
    background: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT,
            description="A colour such as `white` or `#ffffff80`, `gradient(white, #dddddd, 90)`, `blur` or `none`.",
        ),
    ] = None
    background_image_url: Annotated[
        str | None,
        Field(max_length=LONGEST_URL, description="URL of a picture to put behind the cut-out."),
    ] = None
    quality: Annotated[int, Field(ge=1, le=100, description="Encoder quality for WebP, AVIF and JPEG.")] = (
        USUAL_QUALITY
    )
    trim: Annotated[bool, Field(description="Cut the result to the subject.")] = False
    margin: Annotated[
        str | None,
        Field(max_length=LONGEST_TEXT, description="Margin with `trim` or `canvas`: `5%`, `10px 20px`, …"),
    ] = None
    scale: Annotated[
        str | None,
        Field(max_length=LONGEST_TEXT, description="Share of the result that the subject fits in: `80%`."),
    ] = None
    position: Annotated[
        str | None,
        Field(max_length=LONGEST_TEXT, description="Place of the subject: `center`, `50% 100%`, `original`."),
    ] = None
    canvas: Annotated[
        str | None, Field(max_length=LONGEST_TEXT, description="Size of the result: `2000x2000`.")
    ] = None
    roi: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT,
            description="Part of the photo with the subject: left, top, right and bottom, as `10% 0% 90% 100%`.",
        ),
    ] = None
    box: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT,
            description="The subject is inside of this box: left, top, right and bottom, as `10% 0% 90% 100%`.",
        ),
    ] = None
    keep: Annotated[
        str | None,
        Field(
            max_length=LONGEST_POINTS,
            description="Points on the parts of the subject that stay, across and down: `120px 80px, 50% 50%`.",
        ),
    ] = None
    drop: Annotated[
        str | None,
        Field(
            max_length=LONGEST_POINTS, description="Points on the parts of the subject that go, as `keep`."
        ),
    ] = None
    largest_only: Annotated[
        bool, Field(description="Keep only the largest connected part of the subject.")
    ] = False
    holes: Annotated[
        HolesName, Field(description="`fill`: holes that the subject encloses become part of it.")
    ] = "keep"
    min_coverage: Annotated[
        float,
        Field(
            ge=0,
            le=100,
            description="A subject that takes less of what is searched counts as none; in percent.",
        ),
    ] = 0.0
    within: Annotated[
        str | None,
        Field(
            max_length=LONGEST_TEXT,
            description="Outside of this box is background, whatever else is meant: left, top, right and bottom.",
        ),
    ] = None
    shadow: Annotated[ShadowName, Field(description="A soft shadow under the subject.")] = "none"
    shadow_opacity: Annotated[float, Field(ge=0, le=100, description="Opacity of the shadow in percent.")] = (
        USUAL_OPACITY
    )
    keep_shadow: Annotated[
        bool, Field(description="Keep the shadow that the subject casts in the photo on a plain ground.")
    ] = False
    keep_profile: Annotated[
        bool, Field(description="Keep the photo's colour profile instead of converting it to sRGB.")
    ] = False
    require_subject: Annotated[
        bool, Field(description="Fail, at no cost, if the photo shows no subject.")
    ] = False
    max_megapixels: Annotated[
        float | None,
        Field(
            ge=LEAST_MEGAPIXELS,
            le=MOST_MEGAPIXELS,
            description="Scale a larger photo down to this size before any work.",
        ),
    ] = None
    animation: Annotated[
        AnimationName,
        Field(
            description="`all`: cut out every frame of an animated GIF, APNG or WebP, at the tier's price for each; as `webp` "
            "unless `format` is `png` or `gif`."
        ),
    ] = "first"
    preset: Annotated[
        str | None,
        Field(max_length=LONGEST_TEXT, description="A preset's name; the other fields override its values."),
    ] = None

    @field_validator(*PARSERS)
    @classmethod
    def _can_be_parsed(cls, value: str | None, field: ValidationInfo) -> str | None:
        if value is not None:
            try:
                PARSERS[field.field_name or ""](value)
            except InvalidOptions as error:
                raise ValueError(str(error)) from None
        return value

    def values(
        self,
        accepted: Format | None = None,
        background_image: bytes | Picture | None = None,
        strokes: Mapping[str, Picture] | None = None,
    ) -> OptionValues:
        """Return the values of the fields.

        `accepted` is the output format if `format` is not given, `background_image` the picture that was sent, and
        `strokes` are those of `keep_mask` and `drop_mask` that were.
        """
        known = {field.name for field in dataclasses.fields(OptionValues)}
        # A default is no value: a preset's counts before it.
        given = {name: getattr(self, name) for name in known & self.model_fields_set}
        return OptionValues(
            **given
            | {
                "tier": self.tier.value,
                "format": self.format or (accepted and accepted.value),
                "background_image": background_image,
            }
            | dict(strokes or {})
        )
