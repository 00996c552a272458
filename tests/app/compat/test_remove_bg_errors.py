"""Every error of remove.bg's API is provoked; it has exactly the shape that clients know, and costs nothing."""

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.compat.form import MOST_AT_ONCE_BYTES
from cutout.app.compat.options import SIZES
from cutout.app.compat.remove_bg_errors import CODES as THEIRS
from cutout.app.compat.remove_bg_errors import PIXELS
from cutout.app.config import settings as app_settings
from cutout.app.config.compat import TIERS
from cutout.app.core.errors import InternalError, JobFailedError, kinds_by_code
from cutout.app.db.session import Database
from cutout.app.http.problem_details import answer as answer_error
from cutout.app.http.problem_details import body_too_slow, service_stops, too_many_uploads
from cutout.app.ratelimit.limits import RateLimited
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.storage.base import StorageError
from cutout.inference import errors as engine
from tests.app.api_client import ADMIN, bearer
from tests.app.compat.compat_client import (
    KINDS,
    PHOTO,
    CompatClient,
    key_of,
    nothing_charged,
    opened_compat,
    their_error,
)
from tests.fakes import fake_engine, photo_bytes, thin_picture
from tests.web import PRIVATE, PUBLIC, Web, answer

LARGE = b"\x89PNG" + bytes(1_100_000)
# The codes of COMPAT.md.
CODES = {
    *("missing_source", "multiple_sources", "multiple_bg_sources", "file_too_large", "invalid_file_type"),
    *("invalid_dimensions", "failed_to_read_image", "resolution_too_high", "unknown_foreground"),
    *("failed_image_download", "failed_bg_download", "roi_exceeds_bounds", "roi_region_empty"),
    *(
        f"invalid_{field}"
        for field in (
            *(
                "image_url",
                "bg_image_url",
                "bg_color",
                "channels",
                "crop_margin",
                "format",
                "position",
                "roi",
            ),
            *("scale", "semitransparency", "size"),
        )
    ),
}
REMBG_FIELDS = ("model", "a", "af", "ab", "ae", "om", "ppm", "dc", "bgc", "extras", "url", "file")
Send = Callable[[CompatClient, str], httpx2.Response]


def of(fields: dict[str, Any], files: dict[str, bytes] | None = None, **how: Any) -> Send:
    return lambda client, _: client.send(fields, files, **how)


def urls(fields: dict[str, str], **how: Any) -> Send:
    """Call with fields in which WEB stands for the web server of the test."""
    return lambda client, web: client.send(
        {name: text.replace("WEB", web) for name, text in fields.items()}, **how
    )


def without_subject(client: CompatClient, _: str) -> httpx2.Response:
    radius, client.shop.runner.radius = client.shop.runner.radius, -1.0
    try:
        return client.send()
    finally:
        client.shop.runner.radius = radius


PROVOKED: list[tuple[str, Send]] = [
    *(("missing_source", of({"size": "auto"}, kind=kind, photo=None)) for kind in KINDS),
    ("missing_source", of({"image_file": "picture"}, kind="json", photo=None)),
    ("missing_source", of({f"f{i}": "x" for i in range(60)}, kind="form", photo=None)),
    ("missing_source", of({f"f{i}": "x" for i in range(60)})),
    ("multiple_sources", of({"image_url": "http://a.example/"})),
    ("multiple_sources", of({"image_file_b64": "YQ=="})),
    ("multiple_sources", of({"image_url": "http://a.example/"}, kind="json")),
    ("multiple_bg_sources", of({"bg_color": "fff", "bg_image_url": "http://a.example/"})),
    ("multiple_bg_sources", of({"bg_color": "fff"}, {"bg_image_file": PHOTO})),
    *(("file_too_large", of({}, photo=LARGE, kind=kind)) for kind in KINDS),
    *(("file_too_large", of({}, photo=LARGE + LARGE, kind=kind)) for kind in KINDS),
    ("file_too_large", of({}, {"bg_image_file": LARGE})),
    ("file_too_large", urls({"image_url": "WEB/large"}, photo=None)),
    ("file_too_large", urls({"bg_image_url": "WEB/large"})),
    *(("invalid_file_type", of({}, photo=b"no picture at all, but a text", kind=kind)) for kind in KINDS),
    ("invalid_dimensions", of({}, photo=thin_picture(2, 900))),
    ("resolution_too_high", of({"size": "preview"}, photo=thin_picture(8000, 7000))),
    *(("failed_to_read_image", of({}, photo=PHOTO[:200], kind=kind)) for kind in KINDS),
    ("failed_to_read_image", of({}, photo=b"")),
    ("failed_to_read_image", of({"image_file_b64": "%%% no base64"}, kind="json", photo=None)),
    ("failed_to_read_image", of({"image_file_b64": "data:image/png,abc;"}, kind="form", photo=None)),
    ("failed_to_read_image", of({}, {"bg_image_file": PHOTO[:200]})),
    ("unknown_foreground", without_subject),
    ("failed_image_download", urls({"image_url": "WEB/nothing"}, photo=None)),
    ("failed_image_download", urls({"image_url": f"http://{PRIVATE}:1/"}, kind="json", photo=None)),
    ("failed_bg_download", urls({"bg_image_url": "WEB/nothing"})),
    ("failed_bg_download", urls({"bg_image_url": f"http://{PRIVATE}:1/"})),
    ("failed_bg_download", urls({"bg_image_url": "WEB/text"})),
    ("roi_exceeds_bounds", of({"roi": "0 0 41px 10px"})),
    ("roi_exceeds_bounds", of({"roi": "0 0 110% 10%"})),
    ("roi_region_empty", of({"roi": "10px 10px 10px 20px"})),
    ("roi_region_empty", of({"roi": "50% 0 10% 100%"})),
    *(
        ("invalid_image_url", of({"image_url": url}, photo=None, kind=kind))
        for kind in KINDS
        for url in ("file:///etc/passwd", "picture.png", f"http://a.example/{3000 * 'a'}", "http://u:p@a.b/")
    ),
    *(
        (f"invalid_{field}", of({field: "something else"}))
        for field in (
            *("bg_image_url", "bg_color", "channels", "crop_margin", "format", "position", "roi", "scale"),
            *("semitransparency", "size"),
        )
    ),
]


@pytest.fixture(scope="module")
def pages(web: Web) -> str:
    web.pages |= {"/large": answer(LARGE), "/text": answer(b"a text")}
    return f"http://{PUBLIC}:{web.port}"


def test_every_code(compat: CompatClient, pages: str) -> None:
    with nothing_charged(compat):
        for number, (code, send) in enumerate(PROVOKED):
            title = their_error(send(compat, pages), 400, code)
            assert len(title) > 10, (number, code)
            assert "imageUrl" not in title
            assert "backgroundImage" not in title
    assert {code for code, _ in PROVOKED} == CODES


def test_a_picture_for_the_background_may_be_wrong_after_its_download(
    compat: CompatClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker says it, which knows no classes of errors."""
    fail_with(compat, monkeypatch, JobFailedError("INVALID_BACKGROUND", "The picture is damaged."))
    their_error(compat.send(files={"bg_image_file": PHOTO}), 400, "failed_to_read_image")
    their_error(compat.send(), 400, "failed_bg_download")


def test_no_or_a_wrong_key(compat: CompatClient) -> None:
    wrong = [
        {"X-Api-Key": "abc"},
        {"X-Api-Key": compat.key[:-1] + "0"},
        {"X-Api-Key": "", "Authorization": "Bearer x"},
        {"X-Api-Key": "", "Authorization": f"Bearer {compat.key[:-2]}"},
        {"X-Api-Key": ""},
    ]
    for headers in wrong:
        # Before anything else is looked at.
        their_error(compat.send(headers=headers, photo=None), 403, "auth_failed")
        got = compat.shop.client.get("/v1.0/account", headers=headers)
        their_error(got, 403, "auth_failed")
        assert "www-authenticate" not in got.headers


def test_a_key_is_a_bearer_token_too(compat: CompatClient) -> None:
    headers = {"X-Api-Key": "", "Authorization": f"Bearer {compat.key}"}
    assert compat.send(headers=headers).status_code == 200
    assert compat.shop.client.get("/v1.0/account", headers=headers).status_code == 200


def test_a_disabled_account(compat: CompatClient) -> None:
    key = key_of(compat.shop, "carla")
    with compat.shop.database.begin() as session:
        user = accounts.by_subject(session, "carla")
        assert user is not None
        accounts.disable(session, user)
    assert "disabled" in their_error(compat.send(headers={"X-Api-Key": key}), 403, "auth_failed")


def test_too_few_credits(compat: CompatClient) -> None:
    headers = {"X-Api-Key": key_of(compat.shop, "ben")}
    assert "you have 0" in their_error(compat.send(headers=headers), 402, "insufficient_credits")


def test_too_many_calls(database: Database, tmp_path: Path) -> None:
    with opened_compat(database, tmp_path, remove_per_minute=1) as client:
        first = client.send()
        assert first.status_code == 200
        assert (first.headers["X-RateLimit-Limit"], first.headers["X-RateLimit-Remaining"]) == ("1", "0")
        refused = client.send()
        their_error(refused, 429, "rate_limit_exceeded")
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert (refused.headers["X-RateLimit-Limit"], refused.headers["X-RateLimit-Remaining"]) == ("1", "0")
        assert abs(int(refused.headers["X-RateLimit-Reset"]) - int(first.headers["X-RateLimit-Reset"])) <= 2


def fail_with(client: CompatClient, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(client.shop.state.get(RemovalExecutor), "make", fail)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (RuntimeError("secret words"), 500, "internal"),
        (engine.NetworkFailed("It failed."), 500, "internal"),
        (engine.Overloaded("Too much waits.", retry_after=7), 503, "overloaded"),
        (engine.DeadlineExceeded("Too late."), 504, "deadline_exceeded"),
        (engine.ModelUnavailable("No model."), 503, "model_unavailable"),
        (StorageError("The file cannot be written."), 503, "storage_unavailable"),
        (engine.ResultTooLarge("The result would be too large."), 400, "invalid_dimensions"),
        (engine.PhotoTooLarge("Too large (CUTOUT_MAX_SIDE)."), 400, "invalid_dimensions"),
        (JobFailedError("NO_SUBJECT", "A worker said so."), 400, "unknown_foreground"),
        (JobFailedError("REGION_OUTSIDE", "A worker said so."), 400, "roi_exceeds_bounds"),
        (JobFailedError("REGION_EMPTY", "A worker said so."), 400, "roi_region_empty"),
        (JobFailedError("IMAGE_TOO_LARGE", "Too large (CUTOUT_MAX_MEGAPIXELS)."), 400, "resolution_too_high"),
        (JobFailedError("INVALID_INPUT", "A worker said so."), 400, "invalid_dimensions"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_what_fails_on_our_side(
    compat: CompatClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    fail_with(compat, monkeypatch, error)
    with nothing_charged(compat):
        assert "secret" not in their_error(compat.send(), status, code)


def test_every_kind_of_error_has_their_shape(compat: CompatClient) -> None:
    """Also those that middleware answers, whatever raises them."""
    scope = {"app": compat.shop.client.app, "state": {"request_id": "r"}}
    # A refusal by a rate limit has a test of its own.
    made = [kind.__new__(kind) for kind in kinds_by_code().values() if kind is not RateLimited]
    for error in made:
        error.detail, error.extra, error.reason = "What to do.", {}, None
    for error in (*made, body_too_slow(1), service_stops(), too_many_uploads(), InternalError("x")):
        for path in ("/v1.0/removebg", "/v1.0/account", "/v1.0/anything", "/v1.0"):
            response = answer_error(scope | {"path": path}, error)
            body = bytes(response.body).decode()
            assert body.startswith('{"errors":[{"title":"'), error
            assert ("retry-after" in response.headers) == (response.status_code == 429)
        for path in ("/v1.0removebg", "/v1.00/removebg", "/api/health"):
            assert answer_error(scope | {"path": path}, error).media_type == "application/problem+json"


def test_unknown_paths_and_methods(compat: CompatClient) -> None:
    call = compat.shop.client
    their_error(call.get("/v1.0/nothing"), 404)
    their_error(call.post("/v1.0/removebg/"), 404)
    refused = call.get("/v1.0/removebg")
    their_error(refused, 405)
    assert refused.headers["Allow"] == "POST"


def test_pages_of_others_without_accounts(tmp_path: Path, migrated_file: Path) -> None:
    shutil.copy(migrated_file, tmp_path / "cutout.db")
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    service = create_app(settings, make_engine=lambda _: fake_engine())
    with TestClient(service, base_url="http://127.0.0.1:8000") as client:
        files = {"image_file": ("a.png", photo_bytes(), "image/png")}
        for headers in ({"Origin": "https://evil.example"}, {"Host": "evil.example"}):
            their_error(client.post("/v1.0/removebg", files=files, headers=headers), 403, "auth_failed")
        # Any key is good, and none.
        for headers in ({"X-Api-Key": "theirs"}, {}):
            done = client.post("/v1.0/removebg", files=files, headers=headers)
            assert done.status_code == 200
            # Clients read a number, also where calls are not limited.
            assert int(done.headers["X-RateLimit-Limit"]) == int(done.headers["X-RateLimit-Remaining"]) > 1000


def test_bodies_that_are_none(compat: CompatClient) -> None:
    key = {"X-Api-Key": compat.key}
    json_bodies = [
        10_000 * b"[" + 10_000 * b"]",
        10_000 * b'{"a":' + b"1" + 10_000 * b"}",
        b'{"size":"\xff"}',
        b'{"size":"\\ud800","image_file_b64":"\\ud800"}',
        b'{"image_url":1e999,"size":NaN}',
        b'{"image_url":' + 5000 * b"9" + b"}",
        *(b"", b"null", b"[]", b"1", b'"a"', b"{", b"\0"),
    ]
    forms = [
        b"%ff=%00&%&=&=",
        2000 * b"a=b&",
        b"image_url=%00",
        b"image_file_b64=%zz",
        b"&&&",
        b"\xff\xfe=\xff",
    ]
    multipart = [
        b"",
        b"--b",
        b"--b\r\n\r\nx\r\n--b--",
        b"--b\r\nContent-Disposition: form-data; name=image_file",
    ]
    types = {
        "application/json": json_bodies,
        "application/x-www-form-urlencoded": forms,
        "multipart/form-data; boundary=b": multipart,
        "multipart/form-data": multipart,
        "text/plain": forms,
        "": forms,
    }
    with nothing_charged(compat):
        for media_type, bodies in types.items():
            for body in bodies:
                sent = compat.shop.client.post(
                    "/v1.0/removebg", content=body, headers=key | {"Content-Type": media_type}
                )
                their_error(sent, 400)
        for value in ("", 256 * "k"):
            their_error(compat.send(headers={"Idempotency-Key": value}), 400)


def post_json(compat: CompatClient, body: bytes) -> httpx2.Response:
    headers = {"X-Api-Key": compat.key, "Content-Type": "application/json"}
    answer = compat.shop.client.post(compat.url, content=body, headers=headers)
    assert isinstance(answer, httpx2.Response)
    return answer


@pytest.mark.parametrize("piece", [b"[],", b"{},", b'"a",'])
def test_a_body_of_very_many_values_is_not_parsed(compat: CompatClient, piece: bytes) -> None:
    """The parser would make an object of each, and stop all other requests meanwhile."""
    body = b'{"x":[' + 10_000 * piece + b"0]}"
    assert "too many values" in their_error(post_json(compat, body), 400, "missing_source")


def test_escapes_in_base64_are_no_values(compat: CompatClient) -> None:
    """PHP writes each slash as an escape, and some clients break lines."""
    photo = base64.b64encode(photo_bytes(500, 400)).decode()
    assert photo.count("/") > 5000
    lines = "\n".join(photo[start : start + 76] for start in range(0, len(photo), 76))
    body = json.dumps({"image_file_b64": lines}).replace("/", "\\/").encode()
    assert len(body) > MOST_AT_ONCE_BYTES
    assert post_json(compat, body).status_code == 200


def test_an_idempotency_key_charges_once(compat: CompatClient) -> None:
    before = compat.balance()
    headers = {"Idempotency-Key": "order-1"}
    first, again = compat.send(headers=headers), compat.send(headers=headers)
    assert first.content == again.content
    assert first.headers["X-Cutout-Job"] == again.headers["X-Cutout-Job"]
    assert compat.balance() == before - 3
    their_error(compat.send({"crop": "true"}, headers=headers), 409)


def test_an_admins_token_works_as_well(compat: CompatClient) -> None:
    account = compat.shop.client.get("/v1.0/account", headers=ADMIN | bearer("anna"))
    assert account.status_code == 200


def test_the_documentation_names_every_code_field_and_size() -> None:
    page = (Path(__file__).parents[3] / "docs/compat.md").read_text()
    for code in [*CODES, *(theirs for _, theirs in (*THEIRS.values(), *PIXELS.values()))]:
        field = code.removeprefix("invalid_")
        assert f"`{code}`" in page or (field != code and f"`{field}`" in page), code
    for name in [*TIERS, *SIZES, *REMBG_FIELDS]:
        assert f"`{name}`" in page or f"`{name.replace('mp', 'MP')}`" in page, name
