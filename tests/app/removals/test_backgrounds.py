"""Layouts, backgrounds and presets over HTTP, to the finished picture, for one photo and for a batch."""

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx2
import pytest
from PIL import Image
from sqlalchemy import select

from cutout.app.db.session import Database
from cutout.app.db.tables import Job
from tests.app.api_client import ANNA, API, ApiClient, opened_shop
from tests.app.batch_client import BATCH, BatchClient, opened_studio, photos
from tests.app.http.test_api import problem
from tests.fakes import FakeRunner, open_picture, photo_bytes, thin_picture
from tests.web import PUBLIC, Web, answer, open_web

pytestmark = pytest.mark.slow

REMOVE = f"{API}/remove"
PICTURE = ANNA | {"Accept": "image/*"}


def flat(red: int, green: int, blue: int) -> bytes:
    """Encode a picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (red, green, blue)).save(out, "PNG")
    return out.getvalue()


RED, NOT_A_PICTURE = flat(200, 10, 20), b"<html>"


@pytest.fixture
def web() -> Iterator[Web]:
    with open_web() as web:
        web.pages |= {
            "/red.png": answer(RED),
            "/page": answer(NOT_A_PICTURE),
            "/large": answer(bytes(1_000_001)),
        }
        yield web


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    with opened_shop(database, tmp_path, fetch_seconds=1.5, fetch_allow_networks=f"{PUBLIC}/32") as shop:
        shop.fund("anna", 1000)
        yield shop


@pytest.fixture
def studio(database: Database, tmp_path: Path, redis_url: str) -> Iterator[BatchClient]:
    allowed = f"{PUBLIC}/32"
    with opened_studio(
        database, tmp_path, redis_url, fetch_seconds=1.5, fetch_allow_networks=allowed
    ) as studio:
        studio.fund("anna", 1000)
        yield studio


def send(
    shop: ApiClient,
    behind: bytes | None = None,
    who: dict[str, str] = PICTURE,
    fields: Mapping[str, str] = {},
    **more: str,
) -> Any:
    files = {"image": ("a.png", photo_bytes(80, 60), "image/png")}
    if behind is not None:
        files["backgroundImage"] = ("b.png", behind, "image/png")
    return shop.client.post(REMOVE, files=files, data={**fields, **more}, headers=who)


def corner(answer: httpx2.Response) -> Any:
    return open_picture(answer.raise_for_status().content).convert("RGBA").getpixel((0, 0))


def test_a_preset_gives_a_listing_picture(shop: ApiClient) -> None:
    answer = send(shop, preset="amazon", canvas="500x400").raise_for_status()
    assert answer.headers["content-type"] == "image/jpeg"
    picture = open_picture(answer.content)
    assert (picture.format, picture.size) == ("JPEG", (500, 400))
    left, top, width, height = map(int, answer.headers["x-cutout-subject"].split(","))
    assert (left, width) == (25, 450)
    assert abs(top + height / 2 - 200) <= 1
    assert 0.3 < float(answer.headers["x-cutout-coverage"]) < 0.9
    assert 0 < float(answer.headers["x-cutout-uncertainty"]) < 1
    assert answer.headers["x-cutout-needs-review"] in ("true", "false")
    job = shop.get(f"{API}/jobs/{answer.headers['x-cutout-job']}", ANNA).json()
    assert job["subject"] == {"left": left, "top": top, "width": width, "height": height}
    assert job["format"] == "jpg"
    assert corner(answer)[:3] == (255, 255, 255)


def test_the_format_of_the_answer_is_that_of_the_result(shop: ApiClient) -> None:
    for fields, kind in (
        ({"format": "auto"}, "image/png"),
        ({"format": "auto", "background": "white"}, "image/jpeg"),
        ({"format": "zip"}, "application/zip"),
        ({"format": "mask"}, "image/png"),
        ({"format": "jpeg"}, "image/jpeg"),
        ({}, "image/png"),
    ):
        answer = send(shop, fields=fields).raise_for_status()
        assert answer.headers["content-type"] == kind
        job = shop.get(f"{API}/jobs/{answer.headers['x-cutout-job']}", ANNA).json()
        stored = shop.client.get(job["resultUrl"])
        assert stored.headers["content-type"] == kind
        assert stored.content == answer.content
    for accept, fields, kind in (
        ("image/webp", {"preset": "amazon"}, "image/webp"),  # what a request says comes first
        ("image/webp", {"format": "png"}, "image/png"),
        ("application/zip", {}, "application/zip"),
        ("image/*", {"preset": "sticker", "canvas": "50x50"}, "image/webp"),
    ):
        answer = send(shop, who=ANNA | {"Accept": accept}, fields={"canvas": "50x50", **fields})
        assert answer.raise_for_status().headers["content-type"] == kind
    names = ZipFile(io.BytesIO(send(shop, format="zip").content)).namelist()
    assert sorted(names) == ["alpha.png", "color.jpg"]


def test_a_picture_stands_behind_from_a_file_or_from_the_web(shop: ApiClient, web: Web) -> None:
    url = f"http://{PUBLIC}:{web.port}/red.png"
    assert corner(send(shop, RED)) == (200, 10, 20, 255)
    assert corner(send(shop, backgroundImageUrl=url)) == (200, 10, 20, 255)
    body = {"imageUrl": url, "backgroundImageUrl": url}
    assert corner(shop.client.post(REMOVE, json=body, headers=PICTURE))[:3] == (200, 10, 20)
    assert corner(send(shop, background="#0a141e80"))[3] == 128
    # A browser's file field without a file.
    empty = {
        "image": ("a.png", photo_bytes(), "image/png"),
        "backgroundImage": ("", b"", "application/octet-stream"),
    }
    shop.client.post(REMOVE, files=empty, headers=PICTURE).raise_for_status()


def test_a_background_that_cannot_be_had_costs_nothing_and_leaves_no_job(shop: ApiClient, web: Web) -> None:
    at = f"http://{PUBLIC}:{web.port}"
    for data, url, says in (
        (NOT_A_PICTURE, None, "backgroundImage: This file is not a picture"),
        (b"", None, "backgroundImage: The file is empty"),
        (bytes(1_000_001), None, "backgroundImage: The picture is larger than 1 MB"),
        (thin_picture(5_000_000, 2), None, "backgroundImage: "),
        (None, f"{at}/page", "backgroundImageUrl: This file is not a picture"),
        (None, f"{at}/none", "backgroundImageUrl: The server answers 404"),
        (None, f"{at}/large", "backgroundImageUrl: The picture is larger than 1 MB"),
        (
            None,
            f"http://127.0.0.1:{web.port}/red.png",
            "backgroundImageUrl: 127.0.0.1 cannot be found, or is not",
        ),
        (None, "http://169.254.169.254/latest/", "backgroundImageUrl: "),
        (None, "file:///etc/passwd", "backgroundImageUrl: "),
    ):
        fields = {} if url is None else {"backgroundImageUrl": url}
        detail = problem(send(shop, data, fields=fields), 400, "INVALID_BACKGROUND")["detail"]
        assert detail.startswith(says)
        assert "photo" not in detail or url is None
    assert not any(address == "127.0.0.1" for address, _ in web.asked)
    several = {"background": "red", "backgroundImageUrl": f"{at}/red.png"}
    for background, fields in (
        (None, several),
        (RED, {"background": "red"}),
        (RED, {"backgroundImageUrl": at}),
    ):
        refused = problem(send(shop, background, fields=fields), 400, "INVALID_INPUT")
        assert "only one of background, backgroundImage and backgroundImageUrl" in refused["detail"]
    assert shop.get(f"{API}/jobs", ANNA).json()["jobs"] == []
    assert shop.balance(ANNA) == 1000


def test_what_only_the_photo_shows_fails_and_costs_nothing(shop: ApiClient) -> None:
    problem(send(shop, roi="0 0 81 60"), 400, "REGION_OUTSIDE")
    problem(send(shop, roi="50% 0% 50% 100%"), 400, "REGION_EMPTY")
    for hints, says in (
        ({"keep": "40 30, 1 1"}, "No subject was found at point 2 of those to keep"),
        ({"drop": "81 1"}, "The point 81px 1px is beyond the photo"),
        ({"box": "0 0 81 60"}, "The box ends at 81 × 60"),
        ({"keep": "40 30", "drop": "40.2 30"}, "at the same spot"),
        ({"keep": "1 1 " * 1001}, "keep: "),
        ({"largestOnly": "perhaps"}, "largestOnly: "),
    ):
        assert says in problem(send(shop, fields=hints), 400, "INVALID_INPUT")["detail"]
    shop.runner.radius = -1.0  # the network finds nothing
    problem(send(shop, requireSubject="true"), 400, "NO_SUBJECT")
    damaged = RED[:-20]
    problem(send(shop, damaged), 400, "INVALID_BACKGROUND")
    assert shop.balance(ANNA) == 1000
    shop.runner.radius = 0.3
    assert send(shop, keep="50% 50%", drop="1 1", box="5% 0 100% 100%").raise_for_status().content
    assert shop.balance(ANNA) == 997
    shop.runner.radius = -1.0
    empty = send(shop).raise_for_status()
    assert (empty.headers["x-cutout-subject"], empty.headers["x-cutout-needs-review"]) == ("", "true")


def test_a_key_stands_for_its_options_and_its_background(shop: ApiClient) -> None:
    keyed = PICTURE | {"Idempotency-Key": "order-1"}
    first = send(shop, RED, keyed, trim="true").raise_for_status()
    again = send(shop, RED, keyed, trim="true").raise_for_status()
    assert again.headers["x-cutout-job"] == first.headers["x-cutout-job"]
    assert again.content == first.content
    for background, fields in ((RED, {}), (flat(1, 2, 3), {"trim": "true"}), (None, {"trim": "true"})):
        problem(send(shop, background, keyed, fields=fields), 409, "CONFLICT")
    assert shop.balance(ANNA) == 997


def test_a_repetition_does_not_fetch_its_background_again(shop: ApiClient, web: Web) -> None:
    """As with a photo at a URL: the key stands for the URL, and what is there may have changed."""
    url = f"http://{PUBLIC}:{web.port}/red.png"
    who = PICTURE | {"Idempotency-Key": "red"}
    first = send(shop, who=who, backgroundImageUrl=url).raise_for_status()
    web.pages["/red.png"] = answer(flat(0, 200, 0))
    again = send(shop, who=who, backgroundImageUrl=url).raise_for_status()
    assert again.content == first.content
    del web.pages["/red.png"]
    assert send(shop, who=who, backgroundImageUrl=url).raise_for_status().content == first.content
    problem(send(shop, who=who, backgroundImageUrl=f"{url}?2"), 409, "CONFLICT")
    assert shop.balance(ANNA) == 997


def hand_in(
    studio: BatchClient,
    behind: bytes | None = None,
    who: dict[str, str] = ANNA,
    fields: Mapping[str, str] = {},
    **more: str,
) -> httpx2.Response:
    parts: list[Any] = [("images", (name, data, "image/png")) for name, data in photos(2)]
    if behind is not None:
        parts.insert(1, ("backgroundImage", ("b.png", behind, "image/png")))
    parts += [(name, (None, value)) for name, value in {**fields, **more}.items()]
    return studio.client.post(BATCH, files=parts, headers=who)


def archive(studio: BatchClient, batch_id: str) -> ZipFile:
    download = studio.get(f"{BATCH}/{batch_id}/download", ANNA).raise_for_status()
    return ZipFile(io.BytesIO(download.content))


def test_a_batch_has_its_picture_behind_all_photos(studio: BatchClient, web: Web) -> None:
    url = f"http://{PUBLIC}:{web.port}/red.png"
    for background, fields in ((RED, {}), (None, {"backgroundImageUrl": url})):
        accepted = hand_in(studio, background, fields=fields, canvas="30x20", margin="10%")
        assert accepted.status_code == 202, accepted.text
        assert len(studio.kept()) == 3
        studio.work_off()
        assert studio.kept() == []
        batch_id = accepted.json()["batchId"]
        pictures = archive(studio, batch_id)
        for name in ("photo-0.png", "photo-1.png"):
            picture = open_picture(pictures.read(name))
            assert picture.size == (30, 20)
            assert picture.getpixel((0, 0)) == (200, 10, 20)
        with studio.database.read() as session:
            rows = session.scalars(select(Job.options).where(Job.batch_id.is_not(None))).all()
        assert all("data" not in row["background"] for row in rows)


def test_the_facts_about_each_photo_are_told_and_its_extension_is_true(studio: BatchClient) -> None:
    for fields, ending in (
        ({"format": "auto"}, "png"),
        ({"format": "auto", "background": "white"}, "jpg"),
        ({"format": "zip"}, "zip"),
        ({"preset": "sticker", "canvas": "20x20", "margin": "1px"}, "webp"),
    ):
        batch_id = hand_in(studio, fields=fields).raise_for_status().json()["batchId"]
        assert studio.batch(ANNA, batch_id)["photos"][0]["coverage"] is None
        studio.work_off()
        pictures = archive(studio, batch_id)
        assert pictures.namelist() == [f"photo-0.{ending}", f"photo-1.{ending}", "manifest.json"]
        manifest = json.loads(pictures.read("manifest.json"))
        for told, photo in zip(manifest["images"], studio.batch(ANNA, batch_id)["photos"], strict=True):
            assert 0 < told["coverage"] < 1
            assert set(told["subject"]) == {"left", "top", "width", "height"}
            for name in ("subject", "coverage", "uncertainty", "needsReview"):
                assert told[name] == photo[name] is not None


def test_a_batch_with_a_bad_option_or_background_leaves_nothing(studio: BatchClient, web: Web) -> None:
    for background, fields, code in (
        (NOT_A_PICTURE, {}, "INVALID_BACKGROUND"),
        (bytes(1_000_001), {}, "INVALID_BACKGROUND"),
        (None, {"backgroundImageUrl": f"http://{PUBLIC}:{web.port}/none"}, "INVALID_BACKGROUND"),
        (None, {"backgroundImageUrl": f"http://127.0.0.1:{web.port}/red.png"}, "INVALID_BACKGROUND"),
        (RED, {"background": "red"}, "INVALID_INPUT"),
        (RED, {"format": "mask"}, "INVALID_INPUT"),
        (None, {"preset": "amazn"}, "INVALID_INPUT"),
        (None, {"margin": "5%"}, "INVALID_INPUT"),
    ):
        problem(hand_in(studio, background, fields=fields), 400, code)
        assert studio.kept() == []
    assert studio.balance(ANNA) == 1000


def test_a_batch_sent_again_is_the_same_batch_and_its_picture_stays(studio: BatchClient) -> None:
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    first = hand_in(studio, RED, keyed).raise_for_status().json()["batchId"]
    kept = studio.kept()
    assert hand_in(studio, RED, keyed).json()["batchId"] == first
    problem(hand_in(studio, flat(1, 2, 3), keyed), 409, "CONFLICT")
    assert sorted(studio.kept()) == sorted(kept)
    studio.work_off(FakeRunner())
    assert studio.batch(ANNA, first)["status"] == "completed"
