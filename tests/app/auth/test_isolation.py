"""Authorisation over every route: no caller can reach another user's resources."""

import re
import uuid
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from cutout.app.auth import accounts
from cutout.app.auth.signed_urls import ServiceSecret, sign
from tests.app.api_client import ADMIN, ANNA, API, BEN, SECRET, ApiClient
from tests.app.batch_client import BatchClient, photos, studio
from tests.app.http.test_api import problem
from tests.fakes import photo_bytes

pytestmark = pytest.mark.slow

__all__ = ["studio"]

PUBLIC = "anyone"
USER = "who proves who he is, for himself"
LIKE_OTHERS = "who proves who they are, for themselves, in the shape of another API"
OWNER = "whose the id is"
SIGNED = "whose the id is, and anyone by a signed address"
ADMINS = "admins"
LOOPBACK = "this machine, or the scraper's token"

CANCEL = f"DELETE {API}/batch/{{batch_id}}"

ROUTES = {
    "GET /": PUBLIC,
    "ANY /static": PUBLIC,
    "ANY /static/swagger": PUBLIC,
    "GET /docs": PUBLIC,
    "GET /openapi.json": PUBLIC,
    "GET /metrics": LOOPBACK,
    "GET /api/health": PUBLIC,
    "POST /api/auth/login": PUBLIC,
    "GET /api/auth/session": PUBLIC,
    "POST /api/auth/session": PUBLIC,
    "DELETE /api/auth/session": PUBLIC,
    "GET /api/auth/keys": USER,
    "POST /api/auth/keys": USER,
    "DELETE /api/auth/keys/{key_id}": OWNER,
    f"GET {API}/pricing": PUBLIC,
    f"GET {API}/presets": PUBLIC,
    f"POST {API}/pricing/calculate": USER,
    f"POST {API}/remove": USER,
    f"POST {API}/batch": USER,
    f"GET {API}/batch": USER,
    f"GET {API}/batch/{{batch_id}}": OWNER,
    f"GET {API}/batch/{{batch_id}}/events": OWNER,
    f"GET {API}/batch/{{batch_id}}/download": SIGNED,
    CANCEL: OWNER,
    f"GET {API}/jobs": USER,
    f"GET {API}/jobs/{{job_id}}": OWNER,
    f"GET {API}/jobs/{{job_id}}/image": SIGNED,
    f"GET {API}/jobs/{{job_id}}/thumbnail": SIGNED,
    f"GET {API}/jobs/{{job_id}}/photo": SIGNED,
    f"POST {API}/jobs/{{job_id}}/refine": OWNER,
    f"POST {API}/jobs/{{job_id}}/refine/view": OWNER,
    f"GET {API}/credits": USER,
    f"POST {API}/credits": USER,
    f"GET {API}/subscription": USER,
    f"POST {API}/subscription": USER,
    f"DELETE {API}/subscription": USER,
    f"GET {API}/stats": USER,
    f"GET {API}/admin/stats": ADMINS,
    f"GET {API}/admin/stats/days": ADMINS,
    f"GET {API}/admin/users": ADMINS,
    f"POST {API}/admin/users/{{user_id}}/disable": ADMINS,
    f"POST {API}/admin/users/{{user_id}}/enable": ADMINS,
    f"GET {API}/admin/payments": ADMINS,
    f"POST {API}/admin/payments/{{purchase_id}}/confirm": ADMINS,
    f"POST {API}/admin/subscriptions/{{purchase_id}}/confirm": ADMINS,
    f"POST {API}/admin/credits": ADMINS,
    "POST /v1.0/removebg": LIKE_OTHERS,
    "GET /v1.0/account": LIKE_OTHERS,
    "POST /v1.0/improve": LIKE_OTHERS,
    "POST /v1/segment": LIKE_OTHERS,
    "GET /api/remove": LIKE_OTHERS,
    "POST /api/remove": LIKE_OTHERS,
}

# Status and error code for an authenticated caller who may not access a resource.
REFUSED = {
    OWNER: (404, "NOT_FOUND"),
    SIGNED: (404, "NOT_FOUND"),
    ADMINS: (403, "FORBIDDEN"),
    LOOPBACK: (401, "UNAUTHENTICATED"),
}

# Bodies that cannot be parsed as their content type.
UNREADABLE = [
    ("application/json", b"{"),
    ("application/json", b'"\xff"'),
    ("application/json", 200_000 * b"1"),
    ("multipart/form-data", b"--b"),
    ("multipart/form-data; boundary=b", b"--b\r\nnothing"),
]
LOGIN = {"email": "owner@shop.example", "password": "correct horse"}
OWN_PAGE = {"X-Cutout-Page": "1"}
# The input of a valid call.
SENT: dict[str, dict[str, Any]] = {
    "POST /api/auth/login": {"json": LOGIN},
    "POST /api/auth/session": {"json": LOGIN, "headers": OWN_PAGE},
    "DELETE /api/auth/session": {"headers": OWN_PAGE},
    "POST /api/auth/keys": {"json": {"name": "laptop"}},
    f"POST {API}/pricing/calculate": {"json": {"tier": "basic", "imageCount": 1}},
    f"POST {API}/remove": {"files": {"image": ("photo.png", photo_bytes(), "image/png")}},
    f"POST {API}/jobs/{{job_id}}/refine": {"json": {"largestOnly": True}},
    f"POST {API}/jobs/{{job_id}}/refine/view": {"json": {"largestOnly": True}},
    f"POST {API}/batch": {"files": [("images", file) for file in photos(2)]},
    f"POST {API}/credits": {"json": {"credits": 5, "paymentId": "ben-1"}},
    f"POST {API}/subscription": {"json": {"plan": "starter", "paymentId": "ben-2"}},
    f"POST {API}/admin/credits": {"json": {"userId": str(uuid.uuid4()), "credits": 1, "key": "gift"}},
    "POST /v1.0/removebg": {"files": {"image_file": ("photo.png", photo_bytes(), "image/png")}},
    "POST /v1/segment": {"files": {"image_file": ("photo.png", photo_bytes(), "image/png")}},
    "POST /api/remove": {"files": {"file": ("photo.png", photo_bytes(), "image/png")}},
}
# It needs a web server with a photo, and has tests of its own.
FETCHES = "GET /api/remove"


# One file of each mounted application.
FILES = {
    "ANY /static": "GET /static/page.js",
    "ANY /static/swagger": "GET /static/swagger/swagger-ui.css",
}


def calls_of(service: FastAPI) -> set[str]:
    """Return every call of a service, as `METHOD path`; the method of a mounted application is `ANY`."""
    return {
        f"{method} {route.path}"
        for route in iter_route_contexts(service.routes)
        for method in (route.methods or {"ANY"}) - {"HEAD"}
    }


def of(*kinds: str) -> Iterator[str]:
    return (call for call, kind in ROUTES.items() if kind in kinds)


def do(
    shop: ApiClient, call: str, who: dict[str, str], ids: dict[str, str] | None = None, **sent: Any
) -> httpx2.Response:
    """Make a valid call, with ids that do not exist where none are given."""
    method, path = FILES.get(call, call).split()
    path = re.sub(r"{(\w+)}", lambda found: (ids or {}).get(found[1], str(uuid.uuid4())), path)
    given = SENT.get(call, {}) | sent
    given["headers"] = given.get("headers", {}) | who
    answer: httpx2.Response = shop.client.request(method, path, **given)
    shop.client.cookies.clear()  # Who calls is in the headers.
    return answer


def told(answer: httpx2.Response) -> tuple[int, object, dict[str, str]]:
    """Return the parts of a response that are the same each time."""
    body = re.sub(r'"requestId":"[^"]*"|"Request [^"]*"|\?expires=\d+&signature=\w+', "", answer.text)
    return answer.status_code, body, {**answer.headers, "x-request-id": "", "content-length": ""}


def seen_by(shop: ApiClient, who: dict[str, str]) -> dict[str, object]:
    """Return everything that a user can see of their own resources."""
    return {call: told(do(shop, call, who)) for call in of(USER) if call.startswith("GET")}


@pytest.fixture
def shop(studio: BatchClient) -> BatchClient:
    """Return a service with every feature enabled."""
    return studio


def fill(shop: BatchClient) -> dict[str, str]:
    """Give Anna one of every resource; return the ids by the names of their path parameters."""
    user_id = shop.fund("anna", 40)
    batch_id = shop.accepted(ANNA, photos(2))
    shop.work_off()
    job = shop.remove(ANNA).raise_for_status().json()
    key = shop.client.post("/api/auth/keys", json={"name": "till"}, headers=ANNA).raise_for_status().json()
    wanted: dict[str, Any] = {"plan": "starter", "paymentId": "anna-1"}
    plan = shop.client.post(f"{API}/subscription", json=wanted, headers=ANNA).raise_for_status().json()
    confirm(shop, plan["id"])
    wanted = {"credits": 5, "paymentId": "anna-2"}
    bought = shop.client.post(f"{API}/credits", json=wanted, headers=ANNA).raise_for_status().json()
    return {
        "job_id": job["jobId"],
        "key_id": key["id"],
        "purchase_id": bought["id"],
        "batch_id": batch_id,
        "user_id": str(user_id),
    }


def confirm(shop: ApiClient, purchase_id: str) -> None:
    shop.client.post(f"{API}/admin/payments/{purchase_id}/confirm", headers=ADMIN).raise_for_status()


def check_every_route_is_here(calls: Iterable[str]) -> None:
    new, gone = set(calls) - ROUTES.keys(), ROUTES.keys() - set(calls)
    assert not new, f"Say in ROUTES who may call {sorted(new)}, and in SENT what a good call sends."
    assert not gone, f"Take {sorted(gone)} out of ROUTES: there are no such routes."


def test_every_route_says_who_may_call_it(shop: BatchClient) -> None:
    service = shop.client.app
    assert isinstance(service, FastAPI)
    check_every_route_is_here(calls_of(service))
    service.get("/new/{job_id}")(lambda job_id: job_id)
    with pytest.raises(AssertionError, match=r"Say in ROUTES who may call \['GET /new/{job_id}'\]"):
        check_every_route_is_here(calls_of(service))


def test_the_public_may_see_what_is_public_and_nothing_else(shop: BatchClient) -> None:
    with shop.database.begin() as session:
        accounts.create_local(session, LOGIN["email"], LOGIN["password"])
    ids = fill(shop)
    for call, kind in ROUTES.items():
        answer = do(shop, call, {}, ids)
        if kind == PUBLIC:
            assert answer.status_code in (200, 204), call
            continue
        if kind == LIKE_OTHERS:
            assert answer.status_code in (401, 403), call
        else:
            problem(answer, 401, "UNAUTHENTICATED")
        assert told(answer) == told(do(shop, call, {})), call
        method, path = call.split()
        path = path.format(**ids)
        others = [shop.client.request(method, path)]
        for media_type, body in UNREADABLE:
            others.append(
                shop.client.request(method, path, headers={"Content-Type": media_type}, content=body)
            )
        for other in others:
            assert told(other) == told(answer), f"{call} looks at what is sent before at who sends it"


def test_nobody_sees_or_changes_what_is_anothers(shop: BatchClient) -> None:
    newcomer = seen_by(shop, BEN)
    ids = fill(shop)
    anna = seen_by(shop, ANNA)
    assert {call for call in anna if anna[call] == newcomer[call]} == set()
    assert seen_by(shop, BEN) == newcomer

    shop.fund("ben", 40)
    for call in of(USER, LIKE_OTHERS):
        answer = do(shop, call, BEN)
        assert answer.is_success == (call != FETCHES), call
        if call == f"POST {API}/subscription":
            confirm(shop, answer.json()["id"])  # Otherwise there is nothing to cancel.
    for call in of(*REFUSED):
        for who in (BEN, ADMIN) if ROUTES[call] in (OWNER, SIGNED) else (BEN,):
            answer = do(shop, call, who, ids)
            problem(answer, *REFUSED[ROUTES[call]])
            assert told(do(shop, call, who)) == told(answer), f"{call} tells that a stranger's thing exists"
    assert seen_by(shop, ANNA) == anna


def test_whose_it_is_may(shop: BatchClient) -> None:
    ids = fill(shop)
    gift = {"userId": str(shop.fund("anna", 1)), "credits": 1, "key": "gift"}
    for call in of(OWNER, SIGNED):
        if call == CANCEL:  # A batch that is not finished.
            ids["batch_id"] = shop.accepted(ANNA, photos(2))
        assert do(shop, call, ANNA, ids).is_success, call
    for call in of(ADMINS):
        sent = {"json": gift} if call in SENT else {}
        assert do(shop, call, ADMIN, ids, **sent).is_success, call


@pytest.mark.parametrize("kind", ["picture", "zip"])
def test_a_signed_address_is_good_for_one_thing_and_a_while(shop: BatchClient, kind: str) -> None:
    shop.fund("anna", 40)
    if kind == "picture":
        mine, other = (shop.remove(ANNA).raise_for_status().json()["jobId"] for _ in range(2))
        url = shop.get(f"{API}/jobs/{mine}", ANNA).json()["resultUrl"]
    else:
        mine, other = (shop.accepted(ANNA, photos(2)) for _ in range(2))
        shop.work_off()
        url = shop.batch(ANNA, mine)["zipUrl"]
    media_type = {"picture": "image/png", "zip": "application/zip"}[kind]
    assert shop.get(url, {}).headers["content-type"] == media_type
    path, _, query = url.partition("?")
    assert shop.get(sign(SECRET, path, timedelta(seconds=60)), {}).status_code == 200

    altered = {
        "another thing": url.replace(mine, other),
        "another signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "no signature": re.sub("signature=.*", "signature=", url),
        "another time": url.replace("expires=", "expires=1"),
        "over": sign(SECRET, path, timedelta(seconds=-1)),
        "signed by another": sign(ServiceSecret(SECRET[::-1]), path, timedelta(seconds=60)),
    }
    for why, address in altered.items():
        assert problem(shop.get(address, {}), 404, "NOT_FOUND"), why
    problem(shop.get(f"{path}?{query.partition('&')[0]}", {}), 401, "UNAUTHENTICATED")
    head = shop.client.head(url)
    assert (head.status_code, head.content) == (200, b"")
    assert shop.client.head(altered["another signature"]).status_code == 404
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert shop.client.request(method, url).status_code == 405, method
    for call in of(USER, OWNER, ADMINS):
        method, elsewhere = call.split()
        answer = shop.client.request(method, re.sub("{.*}", mine, elsewhere) + "?" + query)
        problem(answer, 401, "UNAUTHENTICATED")
