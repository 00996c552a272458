"""The HTTP API on a fake network: valid requests, responses and errors."""

import io
import re
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from PIL import Image
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.config import settings as app_settings
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.errors import DeviceLost, ModelUnavailable
from cutout.inference.limits import Limits
from cutout.inference.tiers import Tier
from tests.app.api_client import state_of_client
from tests.fakes import FakeRunner, fake_engine, held_until, open_picture, photo_bytes, thin_picture

REMOVE = "/api/background-remover/remove"


def send(
    client: TestClient, data: bytes | None = None, *, accept: str = "*/*", **fields: str
) -> httpx2.Response:
    files = {"image": ("photo.png", photo_bytes() if data is None else data, "image/png")}
    answer: httpx2.Response = client.post(REMOVE, files=files, data=fields, headers={"Accept": accept})
    return answer


def problem(answer: httpx2.Response, status: int, code: str) -> dict[str, Any]:
    """Check that a response is a well-formed problem, and return it."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["detail"]
    assert body["requestId"] == answer.headers["x-request-id"]
    return body


def test_a_job_and_its_picture(client: TestClient, tmp_path: Path) -> None:
    answer = send(client, tier="standard")
    assert answer.status_code == 200
    job = answer.json()
    assert job["status"] == "completed"
    assert (job["tier"], job["width"], job["height"], job["format"]) == ("standard", 40, 30, "png")
    assert (job["model"], job["backend"], job["substitute"]) == ("isnet-general", "fake", True)
    assert job["noForeground"] is False
    uuid.UUID(job["jobId"])

    picture = client.get(job["resultUrl"])
    assert picture.headers["content-type"] == "image/png"
    assert open_picture(picture.content).mode == "RGBA"
    assert [file.name for file in (tmp_path / "results").iterdir()] == [f"{job['jobId']}.png"]


@pytest.mark.parametrize(
    ("accept", "fields", "media_type"),
    [
        ("image/png", {}, "image/png"),
        ("image/*", {}, "image/png"),
        ("image/webp,image/*;q=0.8", {}, "image/webp"),
        ("IMAGE/JPEG", {}, "image/jpeg"),
        ("image/png", {"format": "avif"}, "image/avif"),
    ],
)
def test_accept_asks_for_the_picture_itself(
    client: TestClient, accept: str, fields: dict[str, str], media_type: str
) -> None:
    answer = send(client, None, accept=accept, **fields)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == media_type
    assert Image.MIME[Image.open(io.BytesIO(answer.content)).format or ""] == media_type
    assert answer.headers["x-cutout-model"] == "isnet-general"
    assert answer.headers["x-cutout-no-foreground"] == "false"
    job = client.get(f"/api/background-remover/jobs/{answer.headers['x-cutout-job']}").json()
    assert client.get(job["resultUrl"]).content == answer.content


@pytest.mark.parametrize("accept", ["*/*", "", "application/json", "application/json, image/png"])
def test_anything_else_is_json(client: TestClient, accept: str) -> None:
    assert send(client, accept=accept).json()["resultUrl"]


def test_output_options(client: TestClient) -> None:
    mask = send(client, accept="image/png", maskOnly="true")
    assert open_picture(mask.content).mode == "L"
    laid = send(client, accept="image/png", background="#102030")
    assert open_picture(laid.content).getpixel((0, 0)) == (16, 32, 48)
    sizes = [len(send(client, accept="image/jpeg", quality=quality).content) for quality in ("10", "95")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"", 400, "INVALID_IMAGE"),
        (b"I am text", 415, "UNSUPPORTED_FORMAT"),
        (photo_bytes()[:200], 400, "INVALID_IMAGE"),
        (photo_bytes(1000, 900, "BMP"), 413, "IMAGE_TOO_LARGE"),  # 2.7 MB, over this service's limit of 1 MB.
    ],
)
def test_bad_photos_are_refused(client: TestClient, data: bytes, status: int, code: str) -> None:
    problem(send(client, data), status, code)


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path, max_megapixels=0.001)
    make_engine = lambda _: fake_engine(limits=settings.limits)
    with TestClient(create_app(settings, make_engine), base_url="http://localhost") as client:
        body = problem(send(client), 413, "IMAGE_TOO_LARGE")
    assert "40 × 30 pixels" in body["detail"]


def multipart(head: str, data: bytes) -> dict[str, Any]:
    """Return a form of one part with these header lines."""
    body = f"--x\r\n{head}\r\n\r\n".encode() + data + b"\r\n--x--\r\n"
    return {
        "content": body,
        "headers": {"Content-Type": "multipart/form-data; boundary=x", "Accept": "image/png"},
    }


@pytest.mark.parametrize(
    "head",
    [
        'Content-Disposition: form-data; name="image"\r\nContent-Type: image/jpeg',
        'Content-Disposition: form-data; name="image"',
        'Content-Disposition: form-data; name="image"; filename=""',
    ],
)
def test_a_photo_needs_no_file_name(client: TestClient, head: str) -> None:
    answer = client.post("/api/background-remover/remove", **multipart(head, photo_bytes(200, 150)))
    assert open_picture(answer.raise_for_status().content).size == (200, 150)
    problem(client.post("/api/background-remover/remove", **multipart(head, b"")), 400, "INVALID_INPUT")


def test_a_background_is_a_colour_in_range(client: TestClient) -> None:
    for background in ("#1020308", "rgb(999,0,0)", "rgb(1,2,-3)"):
        problem(send(client, background=background), 400, "INVALID_INPUT")
    laid = send(client, accept="image/png", background="#102030ff")
    assert open_picture(laid.content).getpixel((0, 0)) == (16, 32, 48)


@pytest.mark.parametrize("tier", Tier)
def test_a_strip_that_no_network_can_use_is_refused(client: TestClient, tier: Tier) -> None:
    body = problem(send(client, thin_picture(5_000_000, 2), tier=tier.value), 413, "IMAGE_TOO_LARGE")
    assert "CUTOUT_MAX_SIDE" in body["detail"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        (
            {"tier": "gold"},
            "tier: Input should be 'basic', 'standard', 'professional', 'industry' or 'preview'",
        ),
        ({"teir": "basic"}, "teir: there is no such field"),
        ({"background": "reddish"}, "'reddish' is not a colour"),
        ({"quality": "101"}, "quality: Input should be less than or equal to 100"),
        (
            {"format": "bmp"},
            "format: Input should be 'png', 'webp', 'jpg', 'jpeg', 'avif', 'gif', 'auto', 'zip' or",
        ),
    ],
)
def test_bad_fields_are_named(client: TestClient, fields: dict[str, str], says: str) -> None:
    assert says in problem(send(client, None, **fields), 400, "INVALID_INPUT")["detail"]


def test_a_missing_photo_is_explained(client: TestClient) -> None:
    for answer in (
        client.post(REMOVE),
        client.post(REMOVE, data={"image": "text"}),
        client.post(REMOVE, json={}),
    ):
        assert "curl -F image=@photo.jpg" in problem(answer, 400, "INVALID_INPUT")["detail"]


def form_of(*parts: tuple[str, bytes]) -> dict[str, Any]:
    """Return a form; each part is the text after `form-data; ` and its data."""
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in parts
    )
    return {"content": body + b"--b--\r\n", "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize(
    "head",
    [
        'name="image"',
        "name=image",
        'name="image"\r\nContent-Type: image/png',
        'name="image"; filename=""',
        'name="image"; filename="a.jfif"',
    ],
)
def test_a_part_without_a_files_name_is_a_photo(client: TestClient, head: str) -> None:
    photo = noise_png()
    assert len(photo) > 50_000  # More than a form field may hold.
    answer = client.post(REMOVE, **form_of((head, photo), ('name="tier"', b"standard")))
    assert answer.status_code == 200, answer.text
    assert answer.json()["tier"] == "standard"


def test_an_empty_part_is_no_photo(client: TestClient) -> None:
    for head in ('name="image"', 'name="image"; filename=""'):
        answer = client.post(REMOVE, **form_of((head, b"")))
        assert "curl -F image=@photo.jpg" in problem(answer, 400, "INVALID_INPUT")["detail"]
    answer = client.post(REMOVE, **form_of(('name="image"; filename="a.jpg"', b"")))
    assert "empty" in problem(answer, 400, "INVALID_IMAGE")["detail"]


def test_a_part_without_a_files_name_has_the_limits_of_one_with(client: TestClient) -> None:
    answer = client.post(REMOVE, **form_of(('name="image"', noise_png()), ('name="image"', noise_png())))
    problem(answer, 400, "INVALID_INPUT")
    problem(client.post(REMOVE, **form_of(('name="tier"', bytes(20_000)))), 400, "INVALID_INPUT")
    problem(client.post(REMOVE, **form_of(('name="image"', bytes(1_050_000)))), 413, "IMAGE_TOO_LARGE")


def test_a_photo_too_long_for_its_format_is_refused_with_the_field_to_change(client: TestClient) -> None:
    out = io.BytesIO()
    Image.new("L", (16_400, 170)).save(out, "PNG")
    detail = problem(send(client, out.getvalue(), format="webp"), 400, "INVALID_INPUT")["detail"]
    assert "16400 × 170" in detail
    assert "another format (format, or --format)" in detail


def test_the_page_takes_every_spelling_of_a_format(client: TestClient) -> None:
    accepted = re.search(r'accept="([^"]*)"', client.get("/").text)
    assert accepted
    assert {".jfif", ".jpe", ".hif", ".mpo", ".heic", ".tif"} <= set(accepted[1].split(","))


def noise_png() -> bytes:
    out = io.BytesIO()
    Image.effect_noise((300, 250), 60).save(out, "PNG")
    return out.getvalue()


def test_a_body_past_the_limit_is_not_read_to_its_end(client: TestClient) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(50):
            sent += 100_000
            yield bytes(100_000)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    problem(client.post(REMOVE, content=body(), headers=headers), 413, "IMAGE_TOO_LARGE")
    problem(
        client.post(REMOVE, content=b"x", headers={**headers, "Content-Length": "5000000"}),
        413,
        "IMAGE_TOO_LARGE",
    )


# Starlette leaves the spooled file of an incomplete part to the garbage collector, which removes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"garbage",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\nhalf a file',
        b"--b\r\nContent-Disposition: \xff\xfe\r\n\r\n\r\n--b--\r\n",
    ],
)
def test_broken_multipart_is_bad_input(client: TestClient, body: bytes) -> None:
    answer = client.post(REMOVE, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    problem(answer, 400, "INVALID_INPUT")


def test_unknown_places_and_methods_are_problems_too(client: TestClient) -> None:
    problem(client.get("/api/nothing"), 404, "NOT_FOUND")
    problem(client.get(f"/api/background-remover/jobs/{uuid.uuid4()}/image"), 404, "NOT_FOUND")
    problem(client.get("/api/background-remover/jobs/..%2F..%2Fetc%2Fpasswd/image"), 404, "NOT_FOUND")
    problem(client.get("/api/background-remover/jobs/passwd/image"), 400, "INVALID_INPUT")
    problem(client.get(REMOVE), 405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:8000"},
        {"Host": ""},
        {"Host": "["},
        {"Host": "[::1"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
    ],
)
def test_pages_elsewhere_may_not_call(client: TestClient, headers: dict[str, str]) -> None:
    problem(client.get("/api/health", headers=headers), 403, "FORBIDDEN")
    problem(client.post(REMOVE, files={"image": photo_bytes()}, headers=headers), 403, "FORBIDDEN")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
def test_this_machines_pages_may_call(client: TestClient, host: str) -> None:
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert client.get("/api/health", headers=headers).status_code == 200


def test_request_ids_are_kept_if_sane(client: TestClient) -> None:
    assert client.get("/api/health", headers={"X-Request-Id": "abc-1.2"}).headers["x-request-id"] == "abc-1.2"
    odd = client.get("/api/health", headers={"X-Request-Id": "a b\tc"}).headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", odd)


def test_pricing_names_what_serves_each_tier(client: TestClient) -> None:
    body = client.get("/api/background-remover/pricing").json()
    assert {tier: info["credits"] for tier, info in body["tiers"].items()} == {
        "basic": 3,
        "standard": 8,
        "professional": 15,
        "industry": 25,
        "preview": 0,
    }
    assert body["tiers"]["basic"] == {
        "name": "Basic",
        "credits": 3,
        "model": "isnet-general",
        "backend": "fake",
        "recipe": "mask",
        "wanted": "rmbg-1.4",
        "substitute": True,
        "own": False,
    }
    assert [discount["percent"] for discount in body["discounts"]] == [5, 10, 15, 20]
    assert body["plans"]["pro"]["professionalPerDay"] == 50


def test_health_names_version_device_and_models(client: TestClient) -> None:
    body = client.get("/api/health").json()
    assert (body["status"], body["device"]) == ("ok", "cpu")
    assert body["version"]
    assert body["tiers"]["industry"]["model"] == "isnet-general"


def test_health_is_503_until_the_engine_is_there(client: TestClient) -> None:
    state_of_client(client).put(RemovalExecutor, None)
    problem(client.get("/api/health"), 503, "MODEL_UNAVAILABLE")
    problem(send(client), 503, "MODEL_UNAVAILABLE")


def test_a_network_that_breaks_is_not_the_callers_fault(tmp_path: Path) -> None:
    def before() -> None:
        raise failures.pop()

    failures: list[Exception] = [ValueError("surprise"), ModelUnavailable("The device is gone.")]
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    runner = FakeRunner()
    service = create_app(settings, make_engine=lambda _: fake_engine(runner))
    with TestClient(service, base_url="http://localhost", raise_server_exceptions=False) as client:
        runner.before = before  # The warm-up at the start of the service succeeds.
        problem(send(client), 503, "MODEL_UNAVAILABLE")
        body = problem(send(client), 500, "INTERNAL")
    assert "surprise" not in str(body)


def test_a_full_queue_is_overloaded(tmp_path: Path) -> None:
    settings = app_settings.load(auth="off", data_dir=tmp_path)
    service = create_app(settings, make_engine=lambda _: fake_engine(limits=Limits(waiting=0)))
    with TestClient(service, base_url="http://localhost") as client:
        answer = send(client)
        problem(answer, 503, "OVERLOADED")
        assert client.get("/api/background-remover/jobs").json()["jobs"] == [], "what was refused is no job"
    assert int(answer.headers["retry-after"]) > 0


def test_a_full_disk_is_said(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(*_: object) -> None:
        raise StorageError("The result cannot be written (No space left on device). Free some space.")

    monkeypatch.setattr(state_of_client(client).get(Storage), "put", put)
    problem(send(client), 503, "STORAGE_UNAVAILABLE")
    problem(send(client, accept="image/png"), 503, "STORAGE_UNAVAILABLE")
    assert client.get("/api/background-remover/credits").json()["balance"] == 1_000_000


def test_a_picture_is_an_answer_in_openapi(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "image/*" in paths[REMOVE]["post"]["responses"]["200"]["content"]


def test_a_removal_that_takes_too_long_is_504(tmp_path: Path) -> None:
    go_on = threading.Event()
    settings = app_settings.load(auth="off", data_dir=tmp_path, deadline_seconds=0.2)
    runner = FakeRunner()
    service = create_app(settings, make_engine=lambda _: fake_engine(runner, settings.limits))
    with TestClient(service, base_url="http://localhost") as client:
        runner.before = lambda: held_until(go_on)
        problem(send(client), 504, "DEADLINE_EXCEEDED")
        go_on.set()


def test_a_device_that_failed_is_told_by_health(tmp_path: Path) -> None:
    def die() -> None:
        raise DeviceLost("The GPU has fallen off the bus.")

    settings = app_settings.load(auth="off", data_dir=tmp_path)
    runner = FakeRunner()
    service = create_app(settings, make_engine=lambda _: fake_engine(runner))
    with TestClient(service, base_url="http://localhost") as client:
        runner.before = die
        for answer in (send(client), send(client), client.get("/api/health")):
            assert "off the bus" in problem(answer, 503, "MODEL_UNAVAILABLE")["detail"]
