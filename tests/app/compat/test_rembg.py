"""The API of rembg's server: `GET` and `POST /api/remove`."""

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.removals.executors import LocalExecutor, RemovalExecutor
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.compat.compat_client import CompatClient, key_of, nothing_charged
from tests.fakes import FakeRunner, fake_engine, open_picture, photo_bytes
from tests.web import PRIVATE, PUBLIC, Web, answer

PHOTO = photo_bytes(file_format="JPEG")
MODELS: tuple[str, ...] = (
    "u2net",
    "u2netp",
    "u2net_human_seg",
    "silueta",
    "isnet-general-use",
    "isnet-anime",
    "bria-rmbg",
)
MODELS += ("birefnet-general", "birefnet-portrait", "birefnet-massive")


@pytest.fixture
def seen(compat: CompatClient, monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """Return the options of the removals of a test."""
    noted: list[Options] = []
    executor = compat.shop.state.get(RemovalExecutor)
    assert isinstance(executor, LocalExecutor)
    make = executor.make

    async def note(job_id: Any, photo: bytes, options: Options, user_id: Any) -> Any:
        noted.append(options)
        return await make(job_id, photo, options, user_id)

    monkeypatch.setattr(executor, "make", note)
    return noted


@pytest.fixture
def page(web: Web) -> str:
    web.pages["/photo.jpg"] = answer(PHOTO)
    return f"http://{PUBLIC}:{web.port}/photo.jpg"


def post(compat: CompatClient, query: Mapping[str, str] | None = None, /, **fields: str) -> httpx2.Response:
    done = compat.shop.client.post(
        "/api/remove",
        params=query,
        files={"file": ("photo.jpg", PHOTO, "image/jpeg")},
        data=fields,
        headers={"X-Api-Key": compat.key},
    )
    assert isinstance(done, httpx2.Response)
    return done


def get(compat: CompatClient, **query: str) -> httpx2.Response:
    done = compat.shop.client.get("/api/remove", params=query, headers={"X-Api-Key": compat.key})
    assert isinstance(done, httpx2.Response)
    return done


def error(done: httpx2.Response, status: int) -> Any:
    assert done.status_code == status, done.text[:300]
    body = done.json()
    assert list(body) == ["detail"]
    return body["detail"]


VALID: list[tuple[dict[str, str], dict[str, Any]]] = [
    ({}, {}),
    *(({"model": model}, {}) for model in MODELS),
    ({"a": "true"}, {"tier": Tier.PROFESSIONAL}),
    ({"a": "1", "af": "240", "ab": "10", "ae": "10"}, {"tier": Tier.PROFESSIONAL}),
    ({"a": "false", "af": "0", "ab": "255", "ae": "40", "ppm": "true"}, {}),
    ({"dc": "on"}, {"tier": Tier.STANDARD}),
    ({"dc": "true", "a": "true"}, {"tier": Tier.PROFESSIONAL}),
    ({"om": "true"}, {"mask_only": True}),
    ({"om": "yes", "bgc": "255,0,0,255"}, {"mask_only": True}),
    ({"bgc": "255,255,255,255"}, {"background": (255, 255, 255)}),
    ({"bgc": "1, 2, 3, 40"}, {"background": (1, 2, 3, 40)}),
    ({"bgc": "1,2,3"}, {"background": (1, 2, 3)}),
    ({"bgc": "0,0,0,0"}, {}),
    ({"extras": '{"sam_prompt": []}'}, {}),
    ({"extras": "no json"}, {}),
    (dict.fromkeys(("model", "a", "af", "om", "ppm", "dc", "bgc", "extras"), ""), {}),
]
INVALID = [
    *(("model", value) for value in ("nothing", "sam", "u2net_cloth_seg", "u2net_custom", "../x")),
    *(("bgc", value) for value in ("red", "1,2", "1,2,3,4,5", "256,0,0,0", "a,b,c,d", "-1,0,0,0")),
    *((flag, "maybe") for flag in ("a", "om", "ppm", "dc")),
    *(("af", value) for value in ("-1", "256", "x")),
    ("ab", "300"),
    ("ae", "-1"),
]


def test_every_parameter_on_get_and_post(compat: CompatClient, seen: list[Options], page: str) -> None:
    for number, (fields, changes) in enumerate(VALID):
        behind = {name: text for name, text in fields.items() if name in ("bgc", "extras")}
        form = {name: text for name, text in fields.items() if name not in behind}
        expected = dataclasses.replace(Options(), **changes)
        for done in (post(compat, behind, **form), *([get(compat, url=page, **fields)] * (number % 2))):
            assert done.status_code == 200, (fields, done.text)
            assert done.headers["Content-Type"] == "image/png"
            assert open_picture(done.content).format == "PNG"
            assert seen[-1] == expected, fields


def test_every_parameter_that_is_wrong(compat: CompatClient, page: str) -> None:
    with nothing_charged(compat):
        for name, value in INVALID:
            given = {name: value}
            sent = post(compat, given) if name == "bgc" else post(compat, **given)
            for done in (sent, get(compat, url=page, **given)):
                (problem,) = error(done, 422)
                assert problem["loc"] == [name]
                assert value in problem["msg"]
                assert problem["type"] == "value_error"


def test_extras_lead_nowhere(compat: CompatClient, seen: list[Options]) -> None:
    """Whatever paths and keys are in it."""
    hole = {"model_path": "/etc/passwd", "u2net_home": "/", "session": "x", "api_key": "k", "only_mask": True}
    done = post(compat, {"extras": json.dumps(hole)}, model_path="/etc/passwd", extras=json.dumps(hole))
    assert done.status_code == 200
    assert seen == [Options()]
    # Nor does the query reach what comes in the form on POST.
    assert post(compat, {"om": "true", "a": "true"}).status_code == 200
    assert seen[-1] == Options()


def test_errors(compat: CompatClient, page: str, web: Web) -> None:
    call, key = compat.shop.client, {"X-Api-Key": compat.key}
    web.pages["/text"] = answer(b"a text")
    with nothing_charged(compat):
        (problem,) = error(call.get("/api/remove", headers=key), 422)
        assert (problem["loc"], problem["type"]) == (["url"], "missing")
        (problem,) = error(call.post("/api/remove", headers=key, data={"om": "1"}), 422)
        assert (problem["loc"], problem["type"]) == (["file"], "missing")
        for url in ("file:///etc/passwd", "photo.jpg", "http://u:p@a.example/"):
            (problem,) = error(get(compat, url=url), 422)
            assert problem["loc"] == ["url"]
        assert "url:" in error(get(compat, url=f"http://{PRIVATE}:{web.port}/photo.jpg"), 400)
        assert "404" in error(get(compat, url=page + "x"), 400)
        assert error(get(compat, url=page.replace("photo.jpg", "text")), 400)
        broken = {"file": ("a.png", b"\x89PNG no picture", "image/png")}
        assert error(call.post("/api/remove", headers=key, files=broken), 400)
        large = {"file": ("a.png", bytes(1_300_000), "image/png")}
        assert "1 MB" in error(call.post("/api/remove", headers=key, files=large), 400)
        assert error(call.get("/api/remove", params={"url": page}), 401)
        assert error(call.get("/api/remove", params={"url": page}, headers={"X-Api-Key": "x"}), 401)
        poor = {"X-Api-Key": key_of(compat.shop, "frida")}
        assert "credits" in error(call.get("/api/remove", params={"url": page}, headers=poor), 402)
        assert error(call.delete("/api/remove"), 405)


def test_a_photo_without_a_subject_is_no_error_there(compat: CompatClient) -> None:
    radius, compat.shop.runner.radius = compat.shop.runner.radius, -1.0
    try:
        done = post(compat)
    finally:
        compat.shop.runner.radius = radius
    assert done.status_code == 200
    assert done.headers["X-Cutout-No-Foreground"] == "true"
    assert open_picture(done.content).getchannel("A").getextrema() == (0, 0)


def test_without_accounts_no_page_of_others_has_a_photo_fetched(
    tmp_path: Path, migrated_file: Path, page: str, web: Web
) -> None:
    """An <img> of such a page sends no `Origin`."""
    shutil.copy(migrated_file, tmp_path / "cutout.db")
    settings = app_settings.load(auth="off", data_dir=tmp_path, fetch_allow_networks=f"{PUBLIC}/32")
    service = create_app(settings, make_engine=lambda _: fake_engine(FakeRunner()))
    with TestClient(service, base_url="http://127.0.0.1:7000") as client:
        before = len(web.asked)
        for site in ("cross-site", "same-site"):
            refused = client.get("/api/remove", params={"url": page}, headers={"Sec-Fetch-Site": site})
            assert error(refused, 403)
        assert len(web.asked) == before
        for headers in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}):
            assert client.get("/api/remove", params={"url": page}, headers=headers).status_code == 200
