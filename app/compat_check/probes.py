"""The calls that try each row of the table, as few as possible: one removal tries several fields."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image

from cutout.app.compat_check import answers
from cutout.app.compat_check.answers import Check
from cutout.app.compat_check.calls import Body, Call, coded
from cutout.app.compat_check.table import Api
from cutout.app.verify import images

NO_PHOTO = b"This is not a photo.\n"
NOWHERE = "not an address"
AS_JSON = {"Accept": "application/json"}
PREVIEW = {"size": "preview"}
BLUE = (32, 64, 160)


@dataclass(frozen=True)
class Probe:
    """A call, and a check for each row that it tries; `charged` if it makes a result."""

    call: Call
    checks: Mapping[str, Check]
    charged: bool = True


def probes_of(api: Api, key: str | None = None, image_url: str | None = None) -> list[Probe]:
    """Return the calls for an API. `image_url` is the address of a photo that the service can fetch."""
    photo = images.photo()
    made = {Api.REMOVEBG: _removebg, Api.PHOTOROOM: _photoroom, Api.REMBG: _rembg}[api](photo, key)
    if image_url is not None and api is Api.REMOVEBG:
        call = Call(api, PREVIEW | {"image_url": image_url}, body=Body.FORM)
        made.append(Probe(call, {"image_url": answers.is_preview}))
    if image_url is not None and api is Api.REMBG:
        call = Call(api, body=Body.QUERY, query={"url": image_url})
        made.append(Probe(call, {"url": answers.is_format("PNG")}))
    return made


def _removebg(photo: bytes, key: str | None) -> list[Probe]:
    api, file, text = Api.REMOVEBG, {"image_file": photo}, {"image_file_b64": coded(photo)}
    unset = dict.fromkeys(("bg_color", "bg_image_url", "roi", "scale", "crop_margin"), "undefined")
    ignored = {"type": "car", "type_level": "2", "semitransparency": "false", "shadow_method": "legacy"}
    cropped = {"crop": "true", "crop_margin": "10px", "format": "png"}
    return [
        Probe(
            Call(api, PREVIEW | unset | {"format": "png"}, file),
            {
                "image_file": answers.cut_out,
                "a form": answers.accepted,
                "size": answers.is_preview,
                "format": answers.is_format("PNG"),
                '"undefined"': answers.is_preview,
                "headers of a result": answers.has_headers,
            },
        ),
        Probe(
            Call(
                api,
                PREVIEW | ignored | text | {"format": "webp", "roi": "0% 0% 100% 60%"},
                body=Body.FORM,
                headers=AS_JSON,
            ),
            {
                "image_file_b64": answers.cut_out,
                "JSON": answers.is_json_result,
                "format": answers.is_format("WEBP"),
                "roi": answers.ends_above(0.6),
                **dict.fromkeys(("type", "semitransparency", "shadow_method"), answers.accepted),
            },
        ),
        Probe(
            Call(api, PREVIEW | cropped | text, body=Body.JSON),
            {"JSON": answers.cut_out, "crop": answers.has_margin(10, 4)},
        ),
        *_removebg_pictures(file, key),
        *_removebg_account(file),
        *_removebg_errors(file),
    ]


def _removebg_pictures(file: dict[str, bytes], key: str | None) -> list[Probe]:
    api = Api.REMOVEBG
    placed = {"scale": "50%", "position": "0% 0%", "channels": "alpha", "format": "png"}
    bearer = {"Authorization": f"Bearer {key}"} if key else {}
    return [
        Probe(
            Call(api, PREVIEW | placed, file),
            {
                "scale": answers.is_scaled(0.5),
                "position": answers.is_upper_left,
                "channels": answers.is_mask_only,
            },
        ),
        Probe(
            Call(api, PREVIEW | {"bg_color": "81d4fa77"}, file, headers=bearer, as_user=not key),
            {"bg_color": answers.corner_is(0x81, 0xD4, 0xFA, 0x77), "a key": answers.accepted},
        ),
        Probe(Call(api, PREVIEW | {"format": "zip"}, file), {"format": answers.is_archive}),
        Probe(
            Call(api, PREVIEW | {"add_shadow": "true"}, file | {"bg_image_file": picture(BLUE)}),
            {
                "bg_image_file": answers.corner_is(*BLUE),
                "format": answers.is_format("JPEG"),
                "add_shadow": answers.accepted,
            },
        ),
    ]


def _removebg_account(file: dict[str, bytes]) -> list[Probe]:
    api = Api.REMOVEBG
    return [
        Probe(
            Call(api, path="/v1.0/account", body=Body.QUERY),
            {"GET /v1.0/account": answers.is_account},
            charged=False,
        ),
        Probe(
            Call(api, {"tag": "compat-check"}, file, path="/v1.0/improve"),
            {"POST /v1.0/improve": answers.has_id},
            charged=False,
        ),
    ]


def _removebg_errors(file: dict[str, bytes]) -> list[Probe]:
    api = Api.REMOVEBG

    def error(*codes: str, row: str = "errors", files: dict[str, bytes] = file, **fields: str) -> Probe:
        call = Call(api, PREVIEW | fields, files)
        return Probe(call, {row: answers.refused(*codes)}, charged=False)

    stranger = Call(api, PREVIEW, headers={"X-Api-Key": "not-a-key"}, as_user=False)
    return [
        Probe(stranger, {"a key": answers.needs_key(answers.refused(status=(403,)))}, charged=False),
        error("missing_source", files={}),
        error("multiple_sources", image_url="https://example.com/photo.jpg"),
        error("multiple_bg_sources", bg_color="red", bg_image_url="https://example.com/photo.jpg"),
        error("failed_to_read_image", "invalid_file_type", files={"image_file": NO_PHOTO}),
        error("invalid_image_url", "failed_image_download", row="image_url", files={}, image_url=NOWHERE),
        error("invalid_bg_image_url", "failed_bg_download", row="bg_image_url", bg_image_url=NOWHERE),
        error("roi_exceeds_bounds", roi="0px 0px 9000px 9000px"),
        error("roi_region_empty", roi="50% 50% 50% 50%"),
        error("invalid_crop_margin", crop="true", crop_margin="wide"),
        *(
            Probe(
                Call(api, PREVIEW | {name: "nonsense"}, file),
                {"errors": answers.refused(f"invalid_{name}")},
                charged=False,
            )
            for name in ("bg_color", "channels", "format", "position", "roi", "scale", "size")
        ),
    ]


def _photoroom(photo: bytes, _: str | None) -> list[Probe]:
    api, file = Api.PHOTOROOM, {"image_file": photo}
    mask = {"format": "png", "channels": "alpha", "despill": "true"}
    on_red = {"format": "jpg", "bg_color": "ff0000", "crop": "true"}
    keys = ("detail", "status_code", "type")
    return [
        Probe(
            Call(api, PREVIEW | mask, file),
            {
                "image_file": answers.cut_out,
                "channels": answers.is_mask_only,
                "size": answers.is_preview,
                "x-uncertainty-score": answers.has_uncertainty,
                "despill": answers.accepted,
            },
        ),
        Probe(
            Call(api, PREVIEW | on_red, file, headers=AS_JSON),
            {
                "JSON": answers.is_format("JPEG"),
                "format": answers.is_format("JPEG"),
                "bg_color": answers.corner_is(255, 0, 0),
                "crop": answers.is_cropped,
            },
        ),
        Probe(Call(api, PREVIEW), {"errors": answers.refused_like((400,), *keys)}, charged=False),
        Probe(
            Call(api, headers={"x-api-key": "not-a-key"}, as_user=False),
            {"a key": answers.needs_key(answers.refused_like((403, 401), *keys))},
            charged=False,
        ),
    ]


def _rembg(photo: bytes, _: str | None) -> list[Probe]:
    api, file = Api.REMBG, {"file": photo}
    ignored = {
        "model": "u2net",
        "a": "true",
        "af": "240",
        "ab": "10",
        "ae": "10",
        "ppm": "true",
        "dc": "true",
    }
    return [
        Probe(
            Call(api, ignored, file),
            {"file": answers.cut_out, **dict.fromkeys(("model", "a", "af", "dc", "ppm"), answers.accepted)},
        ),
        Probe(Call(api, {"om": "true"}, file), {"om": answers.is_mask}),
        Probe(
            Call(api, {}, file, query={"bgc": "255,0,0,255", "extras": "{}"}),
            {"bgc": answers.corner_is(255, 0, 0), "extras": answers.accepted},
        ),
        Probe(Call(api), {"errors": answers.refused_like((422, 400), "detail")}, charged=False),
        Probe(
            Call(api, body=Body.QUERY, query={"url": NOWHERE}),
            {"url": answers.refused_like((400, 422), "detail")},
            charged=False,
        ),
    ]


def picture(colour: tuple[int, int, int]) -> bytes:
    """Return a PNG of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(out, "PNG")
    return out.getvalue()
