"""`POST /remove` with a photo's URL: the photo is fetched first, charged once, and not charged if the fetch fails."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.app.db.session import Database
from tests.app.api_client import ANNA, API, ApiClient, opened_shop
from tests.app.http.test_api import problem
from tests.fakes import open_picture, photo_bytes, thin_picture
from tests.web import PUBLIC, Web, after, answer, open_web, send_on

pytestmark = pytest.mark.slow

REMOVE = f"{API}/remove"


@pytest.fixture
def web() -> Iterator[Web]:
    with open_web() as web:
        web.pages["/photo.png"] = answer(photo_bytes())
        yield web


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[ApiClient]:
    """Open a service that allows one of this machine's addresses."""
    networks = f"{PUBLIC}/32, 10.0.0.0/8"
    with opened_shop(database, tmp_path, fetch_seconds=1.5, fetch_allow_networks=networks) as shop:
        shop.fund("anna", 50)
        yield shop


def send(shop: ApiClient, body: Any, **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    answer: httpx2.Response = shop.client.post(REMOVE, json=body, headers=ANNA | names)
    return answer


def jobs(shop: ApiClient) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.get(f"{API}/jobs", ANNA).raise_for_status().json()["jobs"]
    return found


def test_a_strip_from_the_web_is_refused_and_not_charged(shop: ApiClient, web: Web) -> None:
    web.pages["/strip.png"] = answer(thin_picture(5_000_000, 2))
    answered = send(shop, {"imageUrl": f"http://{PUBLIC}:{web.port}/strip.png"})
    problem(answered, 413, "IMAGE_TOO_LARGE")
    assert shop.balance(ANNA) == 50


def test_a_photo_from_the_web_is_done_and_charged_once(shop: ApiClient, web: Web) -> None:
    url = f"http://{PUBLIC}:{web.port}/photo.png"
    job = send(shop, {"imageUrl": url, "tier": "standard", "maskOnly": True}).raise_for_status().json()
    assert (job["status"], job["tier"], job["width"], job["height"]) == ("completed", "standard", 40, 30)
    assert open_picture(shop.get(job["resultUrl"], {}).content).mode == "L"
    assert shop.balance(ANNA) == 42
    for form in ({"data": {"imageUrl": url}}, {"files": {"imageUrl": (None, url)}}):
        answered = shop.client.post(REMOVE, headers=ANNA | {"Accept": "image/webp"}, **form)
        assert answered.headers["content-type"] == "image/webp"
    assert shop.balance(ANNA) == 36
    assert len(jobs(shop)) == len(web.seen) == 3


def test_what_cannot_be_had_costs_nothing_and_leaves_no_job(shop: ApiClient, web: Web) -> None:
    web.pages |= {
        "/large": answer(bytes(1_000_001)),
        "/silent": after(3, answer()),
        "/inside": send_on(f"http://127.0.0.1:{web.port}/photo.png"),
        "/packed": answer(photo_bytes(), Content_Encoding="gzip"),
    }
    at = f"http://{PUBLIC}:{web.port}"
    for url, says in {
        f"http://127.0.0.1:{web.port}/photo.png": "not on the public internet",
        "http://169.254.169.254/latest/meta-data/": "not on the public internet",
        "http://pictures.invalid/": "not on the public internet",
        f"{at}/inside": "not on the public internet",
        f"{at}/none": "answers 404",
        f"{at}/silent": "within 1.5 s",
        f"{at}/packed": "compresses the response",
        f"https://{PUBLIC}:{web.port}/photo.png": "No secure connection",
        f"http://{PUBLIC}:1/": "does not answer",
        "ftp://pictures.example/photo.png": "http:// or https://",
    }.items():
        detail = problem(send(shop, {"imageUrl": url}), 400, "INVALID_INPUT")["detail"]
        assert detail.startswith("imageUrl: ")
        assert says in detail
        assert "upload the photo as a file" in detail
    assert "1 MB" in problem(send(shop, {"imageUrl": f"{at}/large"}), 413, "IMAGE_TOO_LARGE")["detail"]
    assert not any(address == "127.0.0.1" for address, _ in web.asked)
    assert shop.balance(ANNA) == 50
    assert jobs(shop) == []


def test_what_is_no_photo_is_a_failed_job_as_if_uploaded(shop: ApiClient, web: Web) -> None:
    web.pages["/page"] = answer(b"<html>", Content_Type="image/png")
    problem(send(shop, {"imageUrl": f"http://{PUBLIC}:{web.port}/page"}), 415, "UNSUPPORTED_FORMAT")
    assert [job["error"]["code"] for job in jobs(shop)] == ["UNSUPPORTED_FORMAT"]
    assert shop.balance(ANNA) == 50


def test_a_key_stands_for_the_address_and_is_fetched_once(shop: ApiClient, web: Web) -> None:
    body = {"imageUrl": f"http://{PUBLIC}:{web.port}/photo.png"}
    photo = web.pages.pop("/photo.png")
    problem(send(shop, body, Idempotency_Key="order-1"), 400, "INVALID_INPUT")
    web.pages["/photo.png"] = photo
    first = send(shop, body, Idempotency_Key="order-1").raise_for_status().json()
    web.pages.clear()
    asked = len(web.seen)
    again = send(shop, body, Idempotency_Key="order-1").raise_for_status().json()
    # The result's expiry is relative to the current time.
    assert {**again, "resultUrl": None} == {**first, "resultUrl": None}
    for other in ({**body, "quality": 80}, {"imageUrl": body["imageUrl"] + "?2"}):
        problem(send(shop, other, Idempotency_Key="order-1"), 409, "CONFLICT")
    problem(shop.remove(ANNA | {"Idempotency-Key": "order-1"}), 409, "CONFLICT")
    assert len(web.seen) == asked == 2
    assert shop.balance(ANNA) == 47
    assert len(jobs(shop)) == 1


def test_a_key_whose_photo_failed_is_fetched_anew(shop: ApiClient, web: Web) -> None:
    body = {"imageUrl": f"http://{PUBLIC}:{web.port}/photo.png"}
    photo = web.pages["/photo.png"]
    web.pages["/photo.png"] = answer(b"no photo")
    problem(send(shop, body, Idempotency_Key="order-1"), 415, "UNSUPPORTED_FORMAT")
    web.pages["/photo.png"] = photo
    send(shop, body, Idempotency_Key="order-1").raise_for_status()
    assert shop.balance(ANNA) == 47


def test_it_is_one_photo_or_one_address(shop: ApiClient, web: Web) -> None:
    url = f"http://{PUBLIC}:{web.port}/photo.png"
    both = shop.remove(ANNA, imageUrl=url)
    for answered in (both, shop.remove(ANNA, b"", imageUrl=url), send(shop, {}), send(shop, {"image": "x"})):
        assert "or as a web address" in problem(answered, 400, "INVALID_INPUT")["detail"]
    for body, says in (
        ({"imageUrl": url, "teir": "basic"}, "teir: there is no such field"),
        ({"imageUrl": url, "tier": "gold"}, "tier: Input should be"),
        ({"imageUrl": url, "background": "reddish"}, "'reddish' is not a colour"),
        ({"imageUrl": [url]}, "imageUrl: Input should be a valid string"),
        ({"imageUrl": url + "x" * 2048}, "imageUrl: "),
        ([url], "Input should be an object"),
    ):
        assert says in problem(send(shop, body), 400, "INVALID_INPUT")["detail"]
    for content in (b"", b"{", b"\xff", b'{"imageUrl": "\\ud800"}', b"[" * 10_000):
        headers = ANNA | {"Content-Type": "application/json; charset=utf-8"}
        problem(shop.client.post(REMOVE, content=content, headers=headers), 400, "INVALID_INPUT")
    assert web.seen == []
    problem(shop.client.post(REMOVE, json={"imageUrl": url}), 401, "UNAUTHENTICATED")
    assert web.seen == []


def test_both_bodies_are_in_openapi(shop: ApiClient) -> None:
    described = shop.client.get("/openapi.json").json()
    bodies = described["paths"][REMOVE]["post"]["requestBody"]["content"]
    form = bodies["multipart/form-data"]["schema"]
    assert form["oneOf"] == [{"required": ["image"]}, {"required": ["imageUrl"]}]
    body = bodies["application/json"]["schema"]
    assert set(body["properties"]) == set(form["properties"]) - {
        "image",
        "backgroundImage",
        "keepMask",
        "dropMask",
    }
    assert body["required"] == ["imageUrl"]
    assert "#/components/schemas/Tier" in json.dumps(body)
    assert "Tier" in described["components"]["schemas"]


def test_networks_are_networks() -> None:
    for wrong in ("10.0.0.1/8", "intranet", "10.0.0.0/33"):
        with pytest.raises(SettingsError, match="CUTOUT_FETCH_ALLOW_NETWORKS"):
            app_settings.load(fetch_allow_networks=wrong)
