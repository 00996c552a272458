"""Photoroom's API: `POST /v1/segment`."""

import base64
import dataclasses
from typing import Any

import httpx2
import pytest

from cutout.app.removals.executors import LocalExecutor, RemovalExecutor
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.geometry import Layout
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.api_client import bearer
from tests.app.compat.compat_client import CompatClient, key_of, nothing_charged
from tests.fakes import open_picture, photo_bytes

PHOTO = photo_bytes()
USUAL = Options(Tier.PROFESSIONAL, layout=Layout(max_pixels=36_000_000), require_subject=True)


def segment(compat: CompatClient, headers: dict[str, str] | None = None, /, **fields: str) -> httpx2.Response:
    files = {"image_file": ("photo.png", PHOTO, "image/png")}
    named = {"x-api-key": compat.key, **(headers or {})}
    answer = compat.shop.client.post("/v1/segment", files=files, data=fields, headers=named)
    assert isinstance(answer, httpx2.Response)
    return answer


def error(answer: httpx2.Response, status: int, kind: str) -> str:
    assert answer.status_code == status, answer.text[:300]
    body = answer.json()
    assert list(body) == ["detail", "status_code", "type"]
    assert (body["status_code"], body["type"]) == (status, kind)
    detail: str = body["detail"]
    return detail


def test_the_picture_and_its_headers(compat: CompatClient) -> None:
    before = compat.balance()
    done = segment(compat)
    assert done.status_code == 200
    assert done.headers["Content-Type"] == "image/png"
    assert open_picture(done.content).mode == "RGBA"
    assert 0 <= float(done.headers["x-uncertainty-score"]) <= 1
    assert float(done.headers["x-uncertainty-score"]) == compat.job(done).uncertainty
    assert done.headers["X-Cutout-Model"] == "isnet-general"
    assert compat.balance() == before - 15
    as_json = segment(compat, {"Accept": "application/json"})
    assert list(as_json.json()) == ["base64img"]
    assert open_picture(base64.b64decode(as_json.json()["base64img"])).mode == "RGBA"
    assert segment(compat, {"Accept": "image/png, application/json"}).headers["Content-Type"] == "image/png"


FIELDS: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    ({"format": "png", "channels": "rgba", "crop": "false", "despill": "true", "size": "full"}, {}),
    ({"format": "jpg"}, {"format": Format.JPG}),
    ({"format": "webp"}, {"format": Format.WEBP}),
    ({"channels": "alpha", "bg_color": "red"}, {"mask_only": True}),
    ({"bg_color": "#FF00FF"}, {"background": (255, 0, 255)}),
    ({"bg_color": "blue"}, {"background": (0, 0, 255)}),
    ({"size": "preview"}, {"tier": Tier.BASIC, "layout": Layout(max_pixels=250_000)}),
    ({"size": "medium"}, {"layout": Layout(max_pixels=1_500_000)}),
    ({"size": "hd"}, {"layout": Layout(max_pixels=4_000_000)}),
    ({"crop": "true"}, {"layout": Layout(trim=True, max_pixels=36_000_000)}),
    (dict.fromkeys(("format", "channels", "bg_color", "size", "crop", "despill"), "undefined"), {}),
    (dict.fromkeys(("format", "channels", "bg_color", "size", "crop", "despill"), ""), {}),
]


def test_every_field(compat: CompatClient, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Options] = []
    executor = compat.shop.state.get(RemovalExecutor)
    assert isinstance(executor, LocalExecutor)
    make = executor.make

    async def noted(job_id: Any, photo: bytes, options: Options, user_id: Any) -> Any:
        seen.append(options)
        return await make(job_id, photo, options, user_id)

    monkeypatch.setattr(executor, "make", noted)
    for fields, changes in FIELDS:
        assert segment(compat, **fields).status_code == 200, fields
        assert seen[-1] == dataclasses.replace(USUAL, **changes), fields


@pytest.mark.parametrize("field", ["format", "channels", "bg_color", "size", "crop", "despill"])
def test_a_field_that_is_wrong(compat: CompatClient, field: str) -> None:
    with nothing_charged(compat):
        assert field in error(segment(compat, **{field: "zip it"}), 400, f"invalid_{field}")


def test_errors(compat: CompatClient) -> None:
    call = compat.shop.client
    with nothing_charged(compat):
        missing = call.post("/v1/segment", data={"size": "hd"}, headers={"x-api-key": compat.key})
        error(missing, 400, "missing_source")
        broken = {"image_file": ("a.png", PHOTO[:200], "image/png")}
        error(
            call.post("/v1/segment", files=broken, headers={"x-api-key": compat.key}),
            400,
            "failed_to_read_image",
        )
        large = {"image_file": ("a.png", bytes(1_700_000), "image/png")}
        error(call.post("/v1/segment", files=large, headers={"x-api-key": compat.key}), 400, "file_too_large")
        error(segment(compat, {"x-api-key": "wrong"}), 403, "auth_failed")
        error(segment(compat, {"x-api-key": key_of(compat.shop, "erik")}), 402, "insufficient_credits")
        error(call.get("/v1/nothing"), 404, "not_found")
        error(call.get("/v1/segment"), 405, "method_not_allowed")
    assert segment(compat, {"x-api-key": "", **bearer("anna")}).status_code == 200
