"""Checks of answers: each returns nothing if all is as that API's clients expect, or else what is not."""

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2
from PIL import Image, UnidentifiedImageError

from cutout.app.compat_check.calls import refusal_of
from cutout.app.verify.client import Failed
from cutout.app.verify.images import CLEAR, OPAQUE

# Remove.bg's `preview`, and how far below it a picture may be.
PREVIEW_PIXELS, ROUNDING = 250_000, 0.97
MEDIA_TYPES = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}
OF_RESULT = ("X-Width", "X-Height", "X-Credits-Charged")
OF_FOREGROUND = tuple(f"X-Foreground-{side}" for side in ("Top", "Left", "Width", "Height"))
CREDIT_KINDS = {"total", "subscription", "payg", "enterprise"}
# A colour of JPEG, or under the edge of a shadow, is not exact.
NEAR = 12

Check = Callable[["Answer"], str | None]


@dataclass(frozen=True)
class Answer:
    """A response, and the picture in it, raw or in JSON."""

    response: httpx2.Response

    @cached_property
    def json(self) -> Any:
        """The body as JSON.

        Raises:
            Failed: it is none.

        """
        try:
            return self.response.json()
        except ValueError:
            raise Failed("The response is not JSON.") from None

    @cached_property
    def picture(self) -> Image.Image:
        """The picture.

        Raises:
            Failed: there is none that can be read.

        """
        data = self.response.content
        if self.response.headers.get("Content-Type", "").startswith("application/json"):
            match self.json:
                case (
                    {"data": {"result_b64": str(text)}} | {"base64img": str(text)} | {"result_b64": str(text)}
                ):
                    data = _decoded(text)
        try:
            picture = Image.open(io.BytesIO(data), formats=list(MEDIA_TYPES))
            picture.load()
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError):
            raise Failed("The response has no picture that can be read.") from None
        return picture

    @property
    def alpha(self) -> Image.Image:
        """The picture's alpha, or the picture itself if it is a mask."""
        return self.picture if self.picture.mode == "L" else self.picture.convert("RGBA").getchannel("A")

    @property
    def subject(self) -> tuple[int, int, int, int]:
        """The box of what is not quite transparent: left, top, right, bottom in pixels."""
        box = self.alpha.getbbox()
        if box is None:
            raise Failed("The picture is empty. Check the weights.")
        return box

    def corner(self) -> tuple[int, ...]:
        """Return the colour of the upper left corner, RGBA."""
        pixel = self.picture.convert("RGBA").getpixel((0, 0))
        assert isinstance(pixel, tuple)
        return pixel


def cut_out(answer: Answer) -> str | None:
    """Check that the test photo's ball is there, and nothing around it."""
    levels = answer.alpha.tobytes()
    if levels[0] > CLEAR:
        return "the background is still there"
    return None if max(levels) >= OPAQUE else "the picture is empty"


def accepted(_: Answer) -> str | None:
    """Check nothing but that there is a result."""
    return None


def is_format(file_format: str) -> Check:
    """Check that the picture is of this format, by its bytes and its media type."""

    def check(answer: Answer) -> str | None:
        if answer.picture.format != file_format:
            return f"the picture is {answer.picture.format}, not {file_format}"
        told = answer.response.headers.get("Content-Type", "")
        if told not in (MEDIA_TYPES[file_format], "application/json"):
            return f"the media type is {told or 'missing'}"
        return None

    return check


def is_preview(answer: Answer) -> str | None:
    """Check that the picture has remove.bg's size `preview`."""
    pixels = answer.picture.width * answer.picture.height
    if ROUNDING * PREVIEW_PIXELS <= pixels <= PREVIEW_PIXELS:
        return None
    return f"the picture has {answer.picture.width}×{answer.picture.height} pixels, not 0.25 megapixels"


def is_mask(answer: Answer) -> str | None:
    """Check that the picture is a mask: grey, black in the corner."""
    if answer.picture.mode != "L":
        return f"the picture is {answer.picture.mode}, not a mask"
    return cut_out(answer)


def is_mask_only(answer: Answer) -> str | None:
    """Check that the picture is grey, wherever the subject is."""
    return None if answer.picture.mode == "L" else f"the picture is {answer.picture.mode}, not a mask"


def is_cropped(answer: Answer) -> str | None:
    """Check that the picture is smaller than `preview`: the ball of the test photo takes a part of it."""
    width, height = answer.picture.size
    return None if width * height < 0.9 * PREVIEW_PIXELS else f"the picture has {width}×{height} pixels"


def has_margin(pixels: int, tolerance: int) -> Check:
    """Check that the subject has this margin on all sides."""

    def check(answer: Answer) -> str | None:
        left, top, right, bottom = answer.subject
        sides = left, top, answer.picture.width - right, answer.picture.height - bottom
        if all(abs(side - pixels) <= tolerance for side in sides):
            return None
        return f"the margins are {', '.join(map(str, sides))} pixels, not {pixels}"

    return check


def is_scaled(share: float) -> Check:
    """Check that the longer side of the subject has this share of the picture's side."""

    def check(answer: Answer) -> str | None:
        left, top, right, bottom = answer.subject
        found = max((right - left) / answer.picture.width, (bottom - top) / answer.picture.height)
        return None if abs(found - share) < 0.04 else f"the subject has {found:.0%} of the picture"

    return check


def is_upper_left(answer: Answer) -> str | None:
    """Check that the subject touches the upper left corner."""
    left, top, *_ = answer.subject
    return None if max(left, top) <= 4 else f"the subject begins at {left}, {top}"


def ends_above(share: float) -> Check:
    """Check that there is nothing below this share of the height, which a region of interest ends at."""

    def check(answer: Answer) -> str | None:
        bottom = answer.subject[3] / answer.picture.height
        return (
            None if bottom <= share + 0.02 else f"there is a subject outside of the region, at {bottom:.0%}"
        )

    return check


def corner_is(*colour: int) -> Check:
    """Check the colour of the upper left corner; three or four channels."""

    def check(answer: Answer) -> str | None:
        found = answer.corner()[: len(colour)]
        near = all(abs(one - other) <= NEAR for one, other in zip(found, colour, strict=True))
        return None if near else f"the background is {found}, not {colour}"

    return check


def has_headers(answer: Answer) -> str | None:
    """Check the headers of a result, as remove.bg sends them."""
    headers = answer.response.headers
    missing = [name for name in ("X-Type", *OF_RESULT, *OF_FOREGROUND) if name not in headers]
    if missing:
        return f"{', '.join(missing)} is missing"
    wrong = [name for name in (*OF_RESULT, *OF_FOREGROUND) if not headers[name].isdigit()]
    if wrong:
        return f"{wrong[0]} is {headers[wrong[0]]!r}, not a whole number"
    told = int(headers["X-Width"]), int(headers["X-Height"])
    return None if told == answer.picture.size else f"X-Width and X-Height are {told}"


def is_json_result(answer: Answer) -> str | None:
    """Check that the result came as remove.bg's JSON."""
    match answer.json:
        case {"data": {"result_b64": str(), "foreground_top": int(), "foreground_left": int(),
                       "foreground_width": int(), "foreground_height": int()}}:  # fmt: skip
            return cut_out(answer)
    return "the JSON has another shape"


def is_archive(answer: Answer) -> str | None:
    """Check that the result is remove.bg's ZIP: a JPEG and a mask of the same size."""
    if answer.response.headers.get("Content-Type") != "application/zip":
        return f"the media type is {answer.response.headers.get('Content-Type')}"
    try:
        with zipfile.ZipFile(io.BytesIO(answer.response.content)) as archive:
            colour, alpha = (
                Image.open(io.BytesIO(archive.read(name))) for name in ("color.jpg", "alpha.png")
            )
    except (zipfile.BadZipFile, KeyError, UnidentifiedImageError):
        return "the ZIP has no color.jpg and alpha.png"
    fits = (colour.format, alpha.format, alpha.mode) == ("JPEG", "PNG", "L") and colour.size == alpha.size
    return None if fits else "color.jpg and alpha.png do not fit together"


def is_account(answer: Answer) -> str | None:
    """Check the shape of an account: clients break on a missing key, and strict ones on another one."""
    match answer.json:
        case {"data": {"attributes": {"credits": dict(credits), "api": dict(api), **rest}}}:
            if set(credits) == CREDIT_KINDS and set(api) == {"free_calls", "sizes"} and not rest:
                return None
    return f"the account has another shape: {json.dumps(answer.json)[:200]}"


def has_id(answer: Answer) -> str | None:
    """Check the answer of `improve`."""
    return None if isinstance(answer.json, dict) and "id" in answer.json else "there is no id"


def has_uncertainty(answer: Answer) -> str | None:
    """Check Photoroom's score."""
    told = answer.response.headers.get("x-uncertainty-score")
    try:
        return None if told is not None and -1 <= float(told) <= 1 else f"the score is {told}"
    except ValueError:
        return f"the score is {told!r}"


def refused(*codes: str, status: tuple[int, ...] = (400,)) -> Check:
    """Check that a call was refused with one of remove.bg's codes; without codes, that it has a title."""

    def check(answer: Answer) -> str | None:
        found = refusal_of(answer.response)
        if found is None:
            return f"{' or '.join(codes)}: the call was accepted, not refused"
        match answer.response.headers.get("Content-Type"), answer.json:
            case "application/json", {"errors": [{"title": str()}, *_]} if found.status in status:
                if not codes or found.code in codes:
                    return None
        return f"{' or '.join(codes) or status[0]}: the answer is {found}"

    return check


def refused_like(status: tuple[int, ...], *keys: str) -> Check:
    """Check that a call was refused with one of these status codes and a JSON object with these keys."""

    def check(answer: Answer) -> str | None:
        if answer.response.status_code not in status:
            return f"the status is {answer.response.status_code}, not {status[0]}"
        told = answer.json
        missing = [key for key in keys if not isinstance(told, dict) or key not in told]
        return f"the error has no {missing[0]}" if missing else None

    return check


def needs_key(check: Check) -> Check:
    """Check that a call with a wrong key and without a photo was refused for its key, where the service has accounts."""

    def checked(answer: Answer) -> str | None:
        # Without accounts, the service misses the photo.
        return None if answer.response.status_code in (400, 422) else check(answer)

    return checked


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Failed("The response has no picture that can be read.") from None
