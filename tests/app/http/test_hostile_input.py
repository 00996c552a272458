"""Hostile input gets a 4xx that says what to do, on either database; nothing is charged and no job remains."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest

from cutout.app.billing.ledger import LARGEST_BALANCE
from cutout.app.http.middleware import SMALL_BODY_BYTES
from tests.app.api_client import ADMIN, ANNA, API, ApiClient, bearer
from tests.fakes import photo_bytes

pytestmark = pytest.mark.slow

NUL, HALF = "a\0b", "a\ud800b"
SMALL_BODIES = (
    "/api/auth/login",
    "/api/auth/keys",
    f"{API}/pricing/calculate",
    f"{API}/credits",
    f"{API}/subscription",
    f"{API}/admin/credits",
    f"{API}/remove",
)
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=b"}
END = b"\r\n--b--\r\n"


def refused(answer: httpx2.Response, *statuses: int) -> str:
    """Check that a response is a problem with a short explanation; return the explanation."""
    assert answer.status_code in (statuses or (400,)), (answer.request.url, answer.text[:500])
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["code"] != "INTERNAL"
    assert 10 < len(body["detail"]) <= 2000
    detail: str = body["detail"]
    return detail


def with_raw(who: dict[str, str], name: str, value: bytes) -> list[tuple[bytes, bytes]]:
    """Return headers, one of which has a raw value as it would be on the wire."""
    return [*((name.encode(), value.encode()) for name, value in who.items()), (name.encode(), value)]


def part(name: str, data: bytes, file_name: bytes | None = None) -> bytes:
    file = b"" if file_name is None else b'; filename="' + file_name + b'"'
    return b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + file + b"\r\n\r\n" + data


@contextmanager
def untouched(shop: ApiClient) -> Iterator[None]:
    """Check that Anna's credits and jobs do not change."""
    shop.fund("anna", 1000)
    before = (shop.balance(ANNA), shop.get(f"{API}/jobs?limit=200", ANNA).json())
    yield
    assert (shop.balance(ANNA), shop.get(f"{API}/jobs?limit=200", ANNA).json()) == before


@pytest.mark.parametrize("text", [NUL, HALF], ids=["nul", "half a character"])
def test_text_that_no_database_takes(shop: ApiClient, text: str) -> None:
    user = str(shop.fund("anna", 1000))
    bodies = [
        ("/api/auth/login", {"email": text, "password": "x"}),
        ("/api/auth/keys", {"name": text}),
        (f"{API}/admin/credits", {"userId": user, "credits": 1, "key": text}),
        (f"{API}/admin/credits", {"userId": user, "credits": 1, "key": "k", "note": text}),
        (f"{API}/credits", {"credits": 1, "paymentId": text}),
        (f"{API}/subscription", {"plan": text, "paymentId": "p"}),
        (f"{API}/remove", {"imageUrl": text}),
        (f"{API}/remove", {"imageUrl": "http://photos.example/", "background": text}),
    ]
    with untouched(shop):
        for path, body in bodies:
            refused(shop.client.post(path, content=json.dumps(body), headers=ADMIN | JSON))
        refused(shop.get(f"{API}/credits", bearer(f"anna{text}")), 401)
        # An e-mail address that cannot be stored is ignored, because it does not identify the caller.
        assert shop.get(f"{API}/credits", bearer("anna", email=f"{text}@shop.example")).status_code == 200
        assert shop.get(f"{API}/credits", bearer("anna", email=400 * "a")).status_code == 200


def test_headers_that_prove_nothing(shop: ApiClient) -> None:
    values = [
        b"a\0b",
        b"\xff\xfe",
        b"cutout_" + 46 * b"\xff",
        b"cutout_" + 40 * b"0" + 6 * b"\xff",
        200_000 * b"x",
        100_000 * b".",
        b"a.b.c",
        b"eyJhbGciOiJub25lIn0.e30.",
        b"eyJhbGciOlsxXX0.e30.eA",
        b"W10.e30.eA",
        b"eyJraWQiOjF9.e30.eA",
    ]
    for value in values:
        for name, sent in (
            ("X-Api-Key", value),
            ("Authorization", value),
            ("Authorization", b"Bearer " + value),
        ):
            headers = with_raw({}, name, sent)
            refused(shop.client.get(f"{API}/credits", headers=headers), 401)
            refused(shop.client.post(f"{API}/remove", files={"image": photo_bytes()}, headers=headers), 401)
    with untouched(shop):
        for value in (b"a\0b", b"", 256 * b"k", 100_000 * b"k"):
            headers = with_raw(ANNA, "Idempotency-Key", value)
            refused(shop.client.post(f"{API}/remove", files={"image": photo_bytes()}, headers=headers))


def test_numbers_dates_and_ids_at_their_edges(shop: ApiClient) -> None:
    queries = [
        *(f"since={time}" for time in ("0001-01-01T00:00:00%2B14:00", "9999-12-31T23:59:59-14:00")),
        *(f"until={time}" for time in ("2026-01-01", "1e999", "NaN", "%00", "99999999999999999999")),
    ]
    job = uuid.uuid4()
    with untouched(shop):
        for query in queries:
            for path in ("jobs", "stats", "admin/stats"):
                assert "query" in refused(shop.get(f"{API}/{path}?{query}", ADMIN))
        for query in (
            "before=9223372036854775808",
            "before=-1",
            "before=%00",
            f"before={5000 * '9'}",
            "limit=0",
        ):
            refused(shop.get(f"{API}/credits?{query}", ANNA))
        for query in ("offset=-1", "offset=9223372036854775808", "tier=%00", "status=%ff"):
            refused(shop.get(f"{API}/jobs?{query}", ANNA))
        assert shop.get(f"{API}/credits?before=9223372036854775807", ANNA).status_code == 200
        assert shop.get(f"{API}/jobs?since=0001-01-01T00:00:00Z", ANNA).status_code == 200
        for query in ("expires=99999999999999999999&signature=a", "expires=-1&signature=%ff%00"):
            refused(shop.get(f"{API}/jobs/{job}/image?{query}", {}), 404)
        for odd in ("x", "%00", "%ff", 10_000 * "0", f"{job}0", "0"):
            refused(shop.get(f"{API}/jobs/{odd}", ANNA))
            refused(shop.get(f"{API}/jobs/{odd}/image", ANNA))
            refused(shop.client.delete(f"/api/auth/keys/{odd}", headers=ANNA))
            refused(shop.client.post(f"{API}/admin/payments/{odd}/confirm", headers=ADMIN))
        for path in (
            "/api/a%00b",
            "/static/%00",
            "/static/%ff",
            f"/static/{5000 * 'a'}",
            "/static/..%2f..%2fmain.py",
        ):
            refused(shop.get(path, {}), 404)


def test_json_that_is_none_or_too_much(shop: ApiClient) -> None:
    bodies = [
        10_000 * b"[" + 10_000 * b"]",
        10_000 * b'{"a":' + b"1" + 10_000 * b"}",
        b'{"tier":"\xff"}',
        b'{"tier":"basic","imageCount":1e999,"credits":1e999,"quality":1e999,"paymentId":"a","userId":1e999}',
        b'{"tier":"basic","imageCount":NaN,"credits":-Infinity}',
        b'{"credits":' + 5000 * b"9" + b"}",
        '{"tier":"basic"}'.encode("utf-16"),
        *(b"", b"null", b"[]", b"1", b'"a"', b"{", b"\0"),
    ]
    with untouched(shop):
        for path in SMALL_BODIES:
            for body in bodies:
                detail = refused(shop.client.post(path, content=body, headers=ADMIN | JSON))
                assert "error parsing" not in detail
            large = b'{"a":"' + SMALL_BODY_BYTES * b"a" + b'"}'
            assert "100 kB" in refused(shop.client.post(path, content=large, headers=ADMIN | JSON), 413)
            assert "100 kB" in refused(
                shop.client.post(path, content=iter([large[:10], large[10:]]), headers=ADMIN | JSON), 413
            )


def test_forms_that_are_none_or_too_much(shop: ApiClient) -> None:
    photo = part("image", photo_bytes(), b"x")
    thousands = range(5000)
    bodies = {
        "two photos": photo + b"\r\n" + photo + END,
        "an option twice": photo
        + b"\r\n"
        + part("tier", b"basic")
        + b"\r\n"
        + part("tier", b"industry")
        + END,
        "thousands of files": b"\r\n".join(part("image", b"x", b"x") for _ in thousands) + END,
        "thousands of options": b"\r\n".join(part(f"f{i}", b"x") for i in thousands) + END,
        "a long head of a part": b"--b\r\nX: " + 500_000 * b"a" + b"\r\n\r\nx" + END,
        "a head of many lines": b"--b\r\n" + 5000 * b"X: a\r\n" + b"\r\nx" + END,
        "a name of a megabyte": part(950_000 * "a", b"x") + END,
        "an option of a megabyte": photo + b"\r\n" + part("background", 900_000 * b"a") + END,
        "a long option": photo + b"\r\n" + part("background", 9000 * b"a") + END,
        "NUL in a name": part("im\0age", b"x", b"x") + END,
        "NUL in an option": photo + b"\r\n" + part("background", b"a\0b") + END,
        "a number without end": photo + b"\r\n" + part("quality", 5000 * b"9") + END,
        "infinity": photo + b"\r\n" + part("quality", b"1e999") + END,
        "lines in a file's name": part("image", photo_bytes(), b"a\r\nb.jpg") + END,
    }
    types = [
        b"multipart/form-data",
        b"multipart/form-data; boundary=" + 100_000 * b"a",
        b"multipart/form-data; boundary=b; charset=undefined",
        b"multipart/form-data; boundary=b; charset=a\0",
        b"application/x-www-form-urlencoded",
        b"\xff\xff",
        b"",
    ]
    with untouched(shop):
        for body in bodies.values():
            refused(shop.client.post(f"{API}/remove", content=body, headers=ANNA | FORM))
        for media_type in types:
            body = part("background", b"\xff") + b"\r\n" + part("tier", b"x") + END
            headers = with_raw(ANNA, "Content-Type", media_type)
            refused(shop.client.post(f"{API}/remove", content=body, headers=headers))
        for body in (b"%ff=%00&%&=&=", 2000 * b"a=b&", b"image=" + 900_000 * b"a"):
            headers = with_raw(ANNA, "Content-Type", b"application/x-www-form-urlencoded")
            refused(shop.client.post(f"{API}/remove", content=body, headers=headers), 400)


def test_no_file_name_leads_anywhere(shop: ApiClient) -> None:
    names = [
        "../../etc/passwd",
        "a/b.jpg",
        "C:\\a.jpg",
        ".",
        "..",
        "",
        "\0",
        "\x01\x02.jpg",
        300 * "n",
        "фото.jpg",
    ]
    names += ["写真.png", "a'b;c.jpg", 'a\\"b.jpg', "😀.png", "CON"]
    shop.fund("anna", 1000)
    for name in names:
        content = part("image", photo_bytes(), name.encode()) + END
        answer = shop.client.post(f"{API}/remove", content=content, headers=ANNA | FORM)
        assert answer.status_code == 200, name
        assert answer.json()["resultUrl"].startswith(f"{API}/jobs/{answer.json()['jobId']}/image?")
    assert shop.balance(ANNA) == 1000 - 3 * len(names)


def test_nobody_gets_more_credits_than_can_be_kept(shop: ApiClient) -> None:
    user = str(shop.fund("anna", LARGEST_BALANCE - 1))
    for credits, status in ((1, 200), (1, 409), (1_000_000_000, 409)):
        body = {"userId": user, "credits": credits, "key": str(uuid.uuid4())}
        assert shop.client.post(f"{API}/admin/credits", json=body, headers=ADMIN).status_code == status
    assert shop.balance(ANNA) == LARGEST_BALANCE
