"""Security headers on every response, CORS, HEAD requests, and bodies that must match their content type."""

import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.http import security_headers
from cutout.app.http.schemas import Body
from cutout.app.removals.executors import RemovalExecutor
from tests.app.api_client import ADMIN, ANNA, API, ApiClient, opened_shop, state_of_client
from tests.app.batch_client import BATCH, BatchClient, opened_studio, photos
from tests.app.http.test_api import problem
from tests.app.serving import served
from tests.fakes import PATIENCE, fake_engine, photo_bytes
from tests.http import http

SHOP, OTHER = "https://shop.example", "https://evil.example"
PREFLIGHT = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}


def assert_told(answer: httpx2.Response) -> None:
    """Check the security headers of a response."""
    told, where = answer.headers, f"{answer.request.method} {answer.request.url}: {answer.status_code}"
    policy = told["content-security-policy"]
    for part in ("default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'"):
        assert part in policy, where
    assert "unsafe" not in policy, where
    assert "*" not in policy, where
    assert told["x-content-type-options"] == "nosniff", where
    assert told["referrer-policy"] == "no-referrer", where
    assert told["x-frame-options"] == "DENY", where
    if "json" in told.get("content-type", ""):
        assert told["cache-control"] == "no-store", where


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """Run a service without accounts, which these tests do not change."""
    settings = app_settings.load(auth="off", data_dir=tmp_path_factory.mktemp("data"), max_upload_mb=1)
    service = create_app(settings, lambda _: fake_engine())
    with TestClient(service, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
        yield client


def test_every_call_tells_browsers(quiet: TestClient) -> None:
    described = quiet.get("/openapi.json").json()["paths"]
    calls = [(method.upper(), path) for path, methods in described.items() for method in methods]
    assert len(calls) > 25
    for method, path in calls:
        answer = quiet.request(method, path.replace("{", "").replace("}", ""))
        assert_told(answer)
    for method, path in (
        ("GET", "/"),
        ("HEAD", "/"),
        ("GET", "/docs"),
        ("GET", "/openapi.json"),
        ("GET", "/static/page.js"),
        ("GET", "/static/nothing.js"),
        ("GET", "/static/swagger/swagger-ui.css"),
        ("GET", "/nothing"),
        ("PUT", "/api/health"),
        ("OPTIONS", "/api/health"),
        ("BREW", "/"),
    ):
        assert_told(quiet.request(method, path))


def test_every_error_tells_browsers(quiet: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_told(quiet.get("/", headers={"Host": "evil.example"}))
    assert_told(
        quiet.post(f"{API}/remove", content=b"x" * 200_000, headers={"Content-Type": "application/json"})
    )
    assert_told(quiet.post(f"{API}/remove", files={"image": b"no photo"}))

    def stumble() -> None:
        raise ValueError("surprise")

    monkeypatch.setattr(state_of_client(quiet).get(RemovalExecutor), "serving", stumble)
    unexpected = quiet.get("/api/health")
    problem(unexpected, 500, "INTERNAL")
    assert_told(unexpected)


def test_a_picture_is_its_users_alone(quiet: TestClient) -> None:
    picture = quiet.post(f"{API}/remove", files={"image": photo_bytes()}, headers={"Accept": "image/png"})
    assert picture.headers["cache-control"] == "no-store"
    assert_told(picture)
    kept = quiet.get(f"{API}/jobs/{picture.headers['x-cutout-job']}/image")
    assert kept.headers["cache-control"] == "private, max-age=3600"
    assert {"Authorization", "X-Api-Key", "Cookie"} <= set(kept.headers["vary"].split(", "))
    assert_told(kept)


def test_files_of_pages_are_kept_sanely(quiet: TestClient) -> None:
    for path, kept in (
        ("/", "no-cache"),
        ("/docs", "no-cache"),
        ("/static/page.js", "no-cache"),
        ("/static/swagger/swagger-ui-bundle.js", "public, max-age=31536000, immutable"),
    ):
        answer = quiet.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == kept
    again = quiet.get(
        "/static/page.js", headers={"If-None-Match": quiet.get("/static/page.js").headers["etag"]}
    )
    assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
    assert_told(again)
    for hidden in (
        "/static/index.html",
        "/static/__init__.py",
        "/static/swagger/__init__.py",
        "/static/swagger/",
    ):
        problem(quiet.get(hidden), 404, "NOT_FOUND")


def test_pages_have_no_script_and_no_style_within_and_load_nothing_from_elsewhere(quiet: TestClient) -> None:
    for path in ("/", "/docs"):
        text = quiet.get(path).text
        assert "<script>" not in text
        assert "<style" not in text
        assert " style=" not in text
        assert " onclick=" not in text
        assert "://" not in text
    problem(quiet.get("/redoc"), 404, "NOT_FOUND")


def test_what_is_no_request_is_told_so_too(tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    with served(create_app(settings, lambda _: fake_engine()), settings) as address:
        parts = urlsplit(address)
        with socket.create_connection(
            (parts.hostname or "", parts.port or 0), timeout=PATIENCE
        ) as connection:
            connection.sendall(b"this is no HTTP\r\n\r\n")
            answer = connection.makefile("rb").read().decode()
        head = {line.partition(": ")[0].lower(): line.partition(": ")[2] for line in answer.split("\r\n")}
        for name, value in security_headers.OF_EVERY_ANSWER.items():
            assert head[name.lower()] == value
        # The server itself sends no body for HEAD, but its length.
        whole = http.get(f"{address}/static/page.js")
        bare = http.head(f"{address}/static/page.js")
        assert (bare.status_code, bare.content) == (200, b"")
        assert bare.headers["content-length"] == str(len(whole.content))
        job = http.post(f"{address}{API}/remove", files={"image": photo_bytes()}).raise_for_status().json()
        picture = http.get(address + job["resultUrl"]).raise_for_status()
        bare = http.head(address + job["resultUrl"])
        assert (bare.status_code, bare.content) == (200, b"")
        for name in ("content-length", "content-type", "cache-control"):
            assert bare.headers[name] == picture.headers[name]


@pytest.mark.parametrize("path", ["/docs/", "/api/health/", f"{API}/jobs/", "/static", "/api/auth/login/"])
def test_no_redirect_repeats_a_host(shop_of: ApiClient, path: str) -> None:
    for method in ("GET", "POST"):
        answer = shop_of.client.request(
            method, path, headers=ANNA | {"Host": "evil.example"}, follow_redirects=False
        )
        assert answer.status_code in (404, 405)
        assert "location" not in answer.headers
        assert "evil.example" not in answer.text


@pytest.fixture(scope="module")
def shop_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiClient]:
    """Open a service with accounts and low rate limits, which a page of another origin may call."""
    folder = tmp_path_factory.mktemp("shop")
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    migrate.migrate(database)
    with opened_shop(database, folder, cors_origins=f"{SHOP}, http://localhost:5173") as shop:
        shop.fund("anna", 1000)
        yield shop
    database.close()


def test_another_origin_may_call_where_a_setting_names_it(shop_of: ApiClient) -> None:
    answer = shop_of.remove(ANNA | {"Origin": SHOP, "Accept": "image/png"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "Origin" in answer.headers["vary"]
    assert "access-control-allow-credentials" not in answer.headers
    shown = answer.headers["access-control-expose-headers"].split(", ")
    assert {"X-Cutout-Model", "X-Request-Id", "Retry-After"} <= set(shown)
    assert {name for name in answer.headers if name.startswith("x-cutout-")} <= {
        name.lower() for name in shown
    }
    # The page can also read why a call was refused.
    for refused in (
        shop_of.client.get(f"{API}/credits", headers={"Origin": SHOP}),
        shop_of.client.get("/nothing", headers={"Origin": SHOP}),
    ):
        assert refused.headers["access-control-allow-origin"] == SHOP
    for origin in (OTHER, "https://shop.example.evil.example", "http://shop.example", "null"):
        other = shop_of.client.get(f"{API}/credits", headers=ANNA | {"Origin": origin})
        assert "access-control-allow-origin" not in other.headers


def test_another_origin_hears_of_our_own_fault(shop_of: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumble() -> None:
        raise ValueError("surprise")

    shop_of.runner.before = stumble
    answer = shop_of.remove(ANNA | {"Origin": SHOP})
    shop_of.runner.before = lambda: None
    problem(answer, 500, "INTERNAL")
    monkeypatch.setattr(shop_of.state.get(RemovalExecutor), "serving", stumble)
    unknown = shop_of.client.get("/api/health", headers={"Origin": SHOP})
    problem(unknown, 500, "INTERNAL")
    for failed in (answer, unknown):
        assert failed.headers["access-control-allow-origin"] == SHOP
        assert_told(failed)


def test_preflights(shop_of: ApiClient) -> None:
    asked = PREFLIGHT | {"Access-Control-Request-Headers": "x-api-key, idempotency-key, content-type"}
    answer = shop_of.client.options(f"{API}/remove", headers=asked)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert "DELETE" in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers
    assert_told(answer)
    assert shop_of.client.options(f"{API}/remove", headers=asked | {"Origin": OTHER}).status_code == 400
    odd = asked | {"Access-Control-Request-Headers": "x-something-else"}
    assert shop_of.client.options(f"{API}/remove", headers=odd).status_code == 400


def test_preflights_are_not_counted(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path, cors_origins=SHOP, reads_per_minute=1, remove_per_minute=1) as shop:
        for _ in range(5):
            assert shop.client.options(f"{API}/remove", headers=PREFLIGHT).status_code == 200
        shop.fund("anna", 10)
        assert shop.remove(ANNA | {"Origin": SHOP}).status_code == 200
        late = shop.remove(ANNA | {"Origin": SHOP})
        problem(late, 429, "RATE_LIMITED")
        assert late.headers["access-control-allow-origin"] == SHOP


def test_by_default_and_without_accounts_no_other_origin_may_call(quiet: TestClient, tmp_path: Path) -> None:
    for method in ("GET", "OPTIONS"):
        assert (
            "access-control-allow-origin"
            not in quiet.request(method, "/api/health", headers=PREFLIGHT).headers
        )
    settings = app_settings.load(auth="off", data_dir=tmp_path, cors_origins=SHOP)
    service = create_app(settings, lambda _: fake_engine())
    with TestClient(service, base_url="http://127.0.0.1:8000") as client:
        for answer in (
            client.get("/api/health", headers={"Origin": SHOP}),
            client.options("/api/health", headers=PREFLIGHT),
        ):
            problem(answer, 403, "FORBIDDEN")
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "shop.example",
        "https://shop.example/",
        "https://*.shop.example",
        "https://Shop.example",
        "https://shop.example:443",
        "https://a:b@shop.example",
        "ftp://shop.example",
        "https://shop.example?x",
    ],
)
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(SettingsError, match=r"^CUTOUT_CORS_ORIGINS: "):
        app_settings.load(cors_origins=f"http://localhost:5173, {origin}")


def test_head_tells_of_a_zip_without_sending_it(database: Database, tmp_path: Path, redis_url: str) -> None:
    with opened_studio(database, tmp_path, redis_url) as studio:
        studio.fund("anna", 100)
        batch_id = studio.accepted(ANNA, photos(2))
        download = f"{BATCH}/{batch_id}/download"
        problem(studio.client.get(download, headers=ANNA), 404, "NOT_FOUND")
        assert studio.client.head(download, headers=ANNA).status_code == 404
        studio.work_off()
        heads_are_right(studio, batch_id, download)


def heads_are_right(studio: BatchClient, batch_id: str, download: str) -> None:
    whole = studio.client.get(download, headers=ANNA)
    zip_url = studio.batch(ANNA, batch_id)["zipUrl"]
    for address, who in ((download, ANNA), (zip_url, {}), (download, ANNA | {"Range": "bytes=10-"})):
        bare = studio.client.head(address, headers=who)
        assert (bare.status_code, bare.content) == (200, b"")
        for name in ("content-length", "content-type", "etag", "accept-ranges", "content-disposition"):
            assert bare.headers[name] == whole.headers[name]
        assert int(bare.headers["content-length"]) == len(whole.content)
    assert studio.client.head(download, headers=ADMIN).status_code == 404
    assert studio.client.head(download).status_code == 401
    part = studio.client.get(download, headers=ANNA | {"Range": "bytes=10-"})
    assert (part.status_code, part.content) == (206, whole.content[10:])


STRICT: list[tuple[str, dict[str, Any]]] = [
    (f"{API}/pricing/calculate", {"tier": "standard", "imageCount": 3}),
    (f"{API}/credits", {"credits": 5, "paymentId": "inv-1", "signature": ""}),
    (f"{API}/subscription", {"plan": "pro", "paymentId": "inv-2", "signature": ""}),
    (f"{API}/admin/credits", {"userId": str(uuid.uuid4()), "credits": 5, "key": "k", "note": ""}),
    (
        f"{API}/remove",
        {"imageUrl": "http://127.0.0.1:1/a.png", "quality": 90, "maskOnly": False, "tier": "basic"},
    ),
    ("/api/auth/keys", {"name": "laptop"}),
    ("/api/auth/login", {"email": "anna@shop.example", "password": "correct horse"}),
]


@pytest.mark.parametrize(("path", "body"), STRICT, ids=[path for path, _ in STRICT])
def test_json_means_what_it_says(shop_of: ApiClient, path: str, body: dict[str, Any]) -> None:
    def refusal(changes: dict[str, Any]) -> str:
        answer = shop_of.client.post(path, json=body | changes, headers=ADMIN)
        return str(problem(answer, 400, "INVALID_INPUT")["detail"])

    assert "unknown: there is no such field" in refusal({"unknown": 1})
    for name, value in body.items():
        odd: list[Any] = [[value], {"a": value}, 1.5]
        if isinstance(value, bool):
            odd += ["true", 1, 0, None]
        elif isinstance(value, int):
            odd += [str(value), True, float(value)]
        else:
            odd += [1, True]
        for wrong in odd:
            assert refusal({name: wrong}).startswith(f"{name}: "), (name, wrong)
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
        if snake != name:
            assert f"{snake}: there is no such field" in refusal({snake: value})
    good = shop_of.client.post(path, json=body, headers=ADMIN)
    if path == f"{API}/remove":
        assert problem(good, 400, "INVALID_INPUT")["detail"].startswith("imageUrl"), (
            "it got as far as fetching"
        )
    else:
        assert good.status_code != 400, good.text


def test_every_body_is_strict(quiet: TestClient) -> None:
    bodies = {
        route.original_route.body_field.field_info.annotation
        for route in iter_route_contexts(quiet.app.routes)  # type: ignore[attr-defined]
        if isinstance(route.original_route, APIRoute) and route.original_route.body_field is not None
    }
    strict = {body for body in bodies if isinstance(body, type) and issubclass(body, Body)}
    assert len(strict) >= 6
    assert bodies == strict  # Forms are parsed by their routes.


def test_forms_are_text(shop_of: ApiClient) -> None:
    fields = {"quality": "80", "maskOnly": "true", "format": "jpg"}
    assert shop_of.remove(ANNA, None, **fields).status_code == 200
