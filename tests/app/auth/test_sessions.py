"""Sessions of the page: a cookie that scripts cannot read, and that counts in requests of the page only."""

import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
import structlog
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts, sessions
from cutout.app.auth.session_cookie import COOKIE, SECURE_COOKIE
from cutout.app.auth.sessions import PageSession, read_session, sign_session
from cutout.app.auth.tokens import InvalidToken, TokenReader
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import ApiKey, User, now
from cutout.app.http.security_headers import CORS_SENT
from tests.app.api_client import ADMIN, ANNA, API, PLATFORM, SECRET, ApiClient, opened_shop, settings_of
from tests.app.http.test_api import problem
from tests.fakes import fake_engine, photo_bytes

EMAIL, PASSWORD = "owner@shop.example", "correct horse"
SESSION, CREDITS, KEYS = "/api/auth/session", f"{API}/credits", "/api/auth/keys"
PAGE = {"X-Cutout-Page": "1"}
# The address of the service in these tests, and others that a browser may be on.
HERE, SIBLING, OTHER = "http://cutout.example", "http://www.cutout.example", "https://evil.example"
# As a browser sends them with requests of the page, by fetch() and by an <img> or an EventSource.
FETCH = PAGE | {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
IMAGE = {"Sec-Fetch-Site": "same-origin"}
LOG = structlog.contextvars.merge_contextvars


@pytest.fixture(scope="module")
def accounts_file(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Path:
    """Return the file of a database with one local account."""
    path = Path(shutil.copy(migrated_file, tmp_path_factory.mktemp("accounts")))
    database = Database(f"sqlite:///{path}")
    with database.begin() as session:
        accounts.create_local(session, EMAIL, PASSWORD)
    database.close()
    return path


@pytest.fixture(scope="module")
def open_shop(tmp_path_factory: pytest.TempPathFactory, accounts_file: Path) -> Iterator[ApiClient]:
    folder = tmp_path_factory.mktemp("shop")
    database = Database(f"sqlite:///{shutil.copy(accounts_file, folder)}")
    changes = {"login_per_minute": 0, "all_logins_per_minute": 0, "cors_origins": "http://www.cutout.example"}
    with opened_shop(database, folder, **changes) as shop:
        yield shop
    database.close()


@pytest.fixture
def shop(open_shop: ApiClient) -> Iterator[ApiClient]:
    """Return a service with one local account, anew for each test, and a browser without cookies."""
    with open_shop.database.begin() as session:
        user = own_user(open_shop, session)
        user.disabled_at = None
        accounts.set_password(session, user, PASSWORD)
    yield open_shop
    open_shop.client.cookies.clear()


def sign_in(shop: ApiClient, headers: dict[str, str] = FETCH, **body: str) -> httpx2.Response:
    sent = body or {"email": EMAIL, "password": PASSWORD}
    answer: httpx2.Response = shop.client.post(SESSION, json=sent, headers=headers)
    return answer


def who(shop: ApiClient, headers: dict[str, str] = FETCH) -> Any:
    """Return the user of the session, as the page asks."""
    answer = shop.get(SESSION, headers)
    assert (answer.status_code, answer.json()["authentication"]) == (200, "on")
    return answer.json()["user"]


def cookie_of(shop: ApiClient) -> str:
    found = shop.client.cookies.get(COOKIE)
    assert found is not None
    return found


def own_user(shop: ApiClient, session: Any) -> User:
    user = accounts.by_subject(session, accounts.local_subject(EMAIL))
    assert user is not None
    return user


def fund(shop: ApiClient) -> None:
    with shop.database.begin() as session:
        ledger.grant(session, own_user(shop, session).id, 10, f"gift:{uuid.uuid4()}")


def test_a_person_signs_in_reads_writes_and_signs_out(shop: ApiClient) -> None:
    assert who(shop) is None
    problem(shop.get(CREDITS, FETCH), 401, "UNAUTHENTICATED")
    answer = sign_in(shop)
    assert answer.status_code == 200
    user = answer.json()["user"]
    assert (user["email"], user["role"], user["subject"]) == (EMAIL, "user", f"local:{EMAIL}")
    assert who(shop) == user
    (cookie,) = answer.headers.get_list("set-cookie")
    name, *attributes = cookie.split("; ")
    assert name.startswith(f"{COOKIE}=")
    assert {one.lower() for one in attributes} == {"httponly", "samesite=strict", "path=/", "max-age=43200"}
    assert cookie_of(shop) not in answer.text

    for headers in (FETCH, IMAGE, {}):  # the last as programs do, and browsers from before these headers
        assert shop.get(CREDITS, headers).status_code == 200
    made = shop.client.post(KEYS, json={"name": "till"}, headers=FETCH)
    assert made.status_code == 201
    assert shop.client.delete(f"{KEYS}/{made.json()['id']}", headers=PAGE).status_code == 204
    assert shop.client.head(CREDITS, headers=IMAGE).status_code == 405

    out = shop.client.delete(SESSION, headers=FETCH)
    assert (out.status_code, out.content) == (204, b"")
    assert {one.partition("=")[0] for one in out.headers.get_list("set-cookie")} == {COOKIE, SECURE_COOKIE}
    assert not list(shop.client.cookies)
    assert who(shop) is None


def test_pictures_and_events_are_read_with_the_cookie_alone(shop: ApiClient) -> None:
    sign_in(shop)
    fund(shop)
    files = {"image": ("photo.png", photo_bytes(), "image/png")}
    job = shop.client.post(f"{API}/remove", files=files, headers=FETCH).raise_for_status().json()
    picture = shop.get(f"{API}/jobs/{job['jobId']}/image", IMAGE)
    assert picture.headers["content-type"] == "image/png"
    # Whoever signs in next in this browser does not get the picture out of its cache.
    assert "Cookie" in picture.headers["vary"]
    problem(shop.get(f"{API}/batch/{uuid.uuid4()}/events", IMAGE), 404, "NOT_FOUND")
    shop.client.cookies.clear()
    problem(shop.get(f"{API}/jobs/{job['jobId']}/image", IMAGE), 401, "UNAUTHENTICATED")


ELSEWHERE = [
    {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"},
    {"Origin": SIBLING, "Sec-Fetch-Site": "same-site"},
    {"Origin": SIBLING},
    {"Origin": "http://cutout.example:8080"},
    {"Origin": "http://cutout.example.evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": ""},
    # A forged Origin does not help against what the browser says itself, nor the other way round.
    {"Origin": HERE, "Sec-Fetch-Site": "cross-site"},
    {"Origin": OTHER, "Sec-Fetch-Site": "same-origin"},
]


@pytest.mark.parametrize("headers", ELSEWHERE, ids=str)
def test_the_cookie_does_not_count_for_pages_of_others(shop: ApiClient, headers: dict[str, str]) -> None:
    sign_in(shop)
    headers = headers | PAGE
    before = shop.get(KEYS, FETCH).json()
    assert who(shop, headers) is None
    for method, path in (("GET", CREDITS), ("POST", KEYS), ("DELETE", f"{API}/subscription"), ("GET", KEYS)):
        answer = shop.client.request(method, path, headers=headers, json={"name": "till"})
        assert "Pages of other origins" in problem(answer, 403, "FORBIDDEN")["detail"]
    assert shop.get(KEYS, FETCH).json() == before
    # Nor can they sign somebody in as another user, or out.
    problem(sign_in(shop, headers), 403, "FORBIDDEN")
    problem(shop.client.delete(SESSION, headers=headers), 403, "FORBIDDEN")
    assert who(shop)["email"] == EMAIL
    # What needs no caller, and who names themselves, is served as before.
    assert shop.get(f"{API}/pricing", headers).status_code == 200
    assert shop.get(CREDITS, headers | ANNA).status_code == 200


def test_what_changes_something_needs_the_header_of_the_page(shop: ApiClient) -> None:
    problem(sign_in(shop, {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}), 403, "FORBIDDEN")
    sign_in(shop)
    before = shop.get(KEYS, FETCH).json()
    for given in ({}, {"X-Cutout-Page": ""}, {"X-Cutout-Page": "0"}):
        headers = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"} | given
        for method, path in (("POST", KEYS), ("POST", f"{API}/remove"), ("DELETE", SESSION)):
            answer = shop.client.request(method, path, headers=headers, json={"name": "till"})
            assert "X-Cutout-Page: 1" in problem(answer, 403, "FORBIDDEN")["detail"]
    assert shop.get(KEYS, FETCH).json() == before
    assert who(shop)["email"] == EMAIL


def test_no_other_origin_can_send_the_header_or_have_a_cookie_sent(shop: ApiClient) -> None:
    assert "x-cutout-page" not in {name.lower() for name in CORS_SENT}
    # Even where a setting lets the origin call the API.
    for path in (SESSION, CREDITS):
        asked = {"Origin": SIBLING, "Access-Control-Request-Method": "POST"}
        allowed = shop.client.options(path, headers=asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SIBLING)
        assert "access-control-allow-credentials" not in allowed.headers
        asked["Access-Control-Request-Headers"] = "x-cutout-page"
        assert shop.client.options(path, headers=asked).status_code == 400


def test_calls_for_clients_of_other_apis_take_no_cookie(shop: ApiClient) -> None:
    """One of them costs credits by GET, which an <img> of a sibling's page makes without any header."""
    sign_in(shop)
    fund(shop)
    for path in ("/api/remove?url=https://example.com/a.png", "/v1.0/account"):
        for headers in ({}, IMAGE, FETCH):
            assert shop.get(path, headers).status_code == 403, path


def test_credentials_in_a_header_win_over_the_cookie(shop: ApiClient) -> None:
    sign_in(shop)
    shop.fund("anna", 7)
    balance = shop.get(CREDITS, ANNA).json()["balance"]
    assert balance >= 7
    key = shop.client.post(KEYS, json={"name": "till"}, headers=ANNA).json()["key"]
    for explicit in (ANNA, {"X-Api-Key": key}, {"Authorization": f"Bearer {key}"}):
        assert shop.get(CREDITS, FETCH | explicit).json()["balance"] == balance
    assert who(shop, FETCH | ANNA)["subject"] == "anna"
    assert who(shop, FETCH | {"Authorization": "Bearer wrong"}) is None
    # A wrong one is refused; the cookie does not step in.
    for explicit in ({"X-Api-Key": "cutout_wrong"}, {"Authorization": "Bearer wrong"}):
        problem(shop.get(CREDITS, FETCH | explicit), 401, "UNAUTHENTICATED")
    # A browser sends a password for a proxy in front by itself.
    assert shop.get(CREDITS, FETCH | {"Authorization": "Basic YTpi"}).status_code == 200


def test_a_platforms_user_signs_in_with_a_key(shop: ApiClient) -> None:
    made = shop.client.post(KEYS, json={"name": "browser"}, headers=ADMIN).json()
    answer = sign_in(shop, apiKey=made["key"])
    assert (answer.json()["user"]["subject"], answer.json()["user"]["role"]) == ("boss", "admin")
    assert made["key"] not in cookie_of(shop)
    assert shop.get(f"{API}/admin/payments", FETCH).status_code == 200
    # The revoked key's session ends, another one's of the same user does not.
    shop.client.delete(f"{KEYS}/{made['id']}", headers=ADMIN)
    assert who(shop) is None
    assert "revoked" in problem(shop.get(CREDITS, FETCH), 401, "UNAUTHENTICATED")["detail"]
    problem(sign_in(shop, apiKey=made["key"]), 401, "UNAUTHENTICATED")
    with shop.database.begin() as session:  # as revoked keys are forgotten in time
        session.delete(session.get(ApiKey, uuid.UUID(made["id"])))
    assert who(shop) is None


def test_a_session_ends_at_once(shop: ApiClient) -> None:
    sign_in(shop)
    with shop.database.begin() as session:
        accounts.disable(session, own_user(shop, session))
    assert who(shop) is None
    problem(shop.get(CREDITS, FETCH), 403, "FORBIDDEN")
    problem(sign_in(shop), 403, "FORBIDDEN")
    with shop.database.begin() as session:
        accounts.enable(session, own_user(shop, session))
    assert who(shop)["email"] == EMAIL

    with shop.database.begin() as session:
        accounts.set_password(session, own_user(shop, session), "another password")
    assert who(shop) is None
    assert "password has changed" in problem(shop.get(CREDITS, FETCH), 401, "UNAUTHENTICATED")["detail"]
    problem(sign_in(shop), 401, "UNAUTHENTICATED")
    sign_in(shop, email=EMAIL.upper(), password="another password").raise_for_status()

    with shop.database.begin() as session:
        own_user(shop, session).password_hash = None  # as when the account is deleted
    assert who(shop) is None


def test_only_what_this_service_made_for_its_page_is_a_session(
    shop: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    sign_in(shop)
    good = cookie_of(shop)
    mine = read_session(SECRET, good)
    token = shop.client.post("/api/auth/login", json={"email": EMAIL, "password": PASSWORD}).json()
    soon = datetime.now(UTC) + timedelta(hours=1)
    claims = {"sub": str(mine.user_id), "pwd": mine.password_mark, "key": None, "exp": soon}
    monkeypatch.setattr(sessions, "LASTS", timedelta(seconds=-1))
    over = sign_session(SECRET, mine)
    monkeypatch.undo()
    for bad in (
        ANNA["Authorization"].removeprefix("Bearer "),  # a token of the platform
        token["accessToken"],
        over,
        good[:-2],
        good.replace(".", ""),
        jwt.encode(claims, SECRET, "HS256"),
        jwt.encode(claims, PLATFORM, "HS256"),
        jwt.encode(claims, "", "none"),
        sign_session("another secret of thirty-two bytes", mine),
        sign_session(SECRET, PageSession(uuid.uuid4(), mine.password_mark)),
        sign_session(SECRET, PageSession(mine.user_id)),
        sign_session(SECRET, PageSession(mine.user_id, key_id=uuid.uuid4())),
        "x",
    ):
        shop.client.cookies.clear()
        shop.client.cookies.set(COOKIE, bad)
        assert who(shop) is None, bad
        problem(shop.get(CREDITS, FETCH), 401, "UNAUTHENTICATED")
    # And a session is no token.
    shop.client.cookies.clear()
    problem(shop.get(CREDITS, {"Authorization": f"Bearer {good}"}), 401, "UNAUTHENTICATED")
    problem(shop.get(CREDITS, {"X-Api-Key": good}), 401, "UNAUTHENTICATED")
    with pytest.raises(InvalidToken):
        TokenReader(SECRET, secret=SECRET).read(good)


def test_a_sign_in_is_a_password_or_a_key(shop: ApiClient) -> None:
    for body in (
        {},
        {"email": EMAIL},
        {"password": PASSWORD},
        {"email": EMAIL, "password": PASSWORD, "apiKey": "k"},
        {"email": EMAIL, "apiKey": "k"},
        {"email": EMAIL, "password": 5},
        {"apiKey": None},
    ):
        answer = shop.client.post(SESSION, json=body, headers=FETCH)
        assert PASSWORD not in problem(answer, 400, "INVALID_INPUT")["detail"]
        assert "set-cookie" not in answer.headers
    for refused in (sign_in(shop, email=EMAIL, password="wrong"), sign_in(shop, apiKey="cutout_x")):
        problem(refused, 401, "UNAUTHENTICATED")
        assert "set-cookie" not in refused.headers


def test_the_log_holds_no_cookie_password_or_key(shop: ApiClient) -> None:
    made = shop.client.post(KEYS, json={"name": "browser"}, headers=ANNA).json()
    with structlog.testing.capture_logs(processors=[LOG]) as logs:
        user_id = sign_in(shop).json()["user"]["id"]
        secrets = [PASSWORD, made["key"], cookie_of(shop)]
        sign_in(shop, email="typed@shop.example", password=PASSWORD)
        sign_in(shop, apiKey=made["key"]).raise_for_status()
        secrets.append(cookie_of(shop))
        shop.get(CREDITS, FETCH)
        sign_in(shop, apiKey=made["key"][:-1] + "_")
        with shop.database.begin() as session:
            key = session.get(ApiKey, uuid.UUID(made["id"]))
            assert key is not None
            key.revoked_at = now()
        shop.get(CREDITS, FETCH)
        shop.client.post(SESSION, json={"apiKey": [made["key"]]}, headers=FETCH)
    assert not [secret for secret in (*secrets, "typed@") if secret in str(logs)]
    assert any(line.get("user") == user_id for line in logs if line["event"] == "request")
    reasons = [line["reason"] for line in logs if line["event"] == "not authenticated"]
    assert any("was revoked" in reason for reason in reasons)


def test_wrong_passwords_are_counted_with_those_of_the_other_login(
    open_shop: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[str] = []
    monkeypatch.setattr(accounts, "log_in", lambda _, email, __: checked.append(email))
    body = {"email": "guessed@shop.example", "password": "wrong password"}
    for number in range(5):
        path = SESSION if number % 2 else "/api/auth/login"
        problem(open_shop.client.post(path, json=body, headers=FETCH), 401, "UNAUTHENTICATED")
    for path in (SESSION, "/api/auth/login"):
        late = open_shop.client.post(path, json=body, headers=FETCH)
        problem(late, 429, "RATE_LIMITED")
        assert int(late.headers["retry-after"]) > 0
    assert len(checked) == 5


def test_sign_ins_are_counted_by_address(accounts_file: Path, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{shutil.copy(accounts_file, tmp_path)}")
    with opened_shop(database, tmp_path, login_per_minute=3) as shop:
        made = shop.client.post(KEYS, json={"name": "browser"}, headers=ANNA).json()["key"]
        for body in ({"apiKey": made}, {"apiKey": made}, {"email": EMAIL, "password": "wrong"}):
            assert sign_in(shop, **body).status_code in (200, 401)
        for body in ({"apiKey": made}, {"email": EMAIL, "password": "wrong"}):
            problem(sign_in(shop, **body), 429, "RATE_LIMITED")
        # Keys that cannot be one ask no database and are not counted.
        problem(sign_in(shop, apiKey="cutout_wrong"), 401, "UNAUTHENTICATED")
    database.close()


@dataclass(frozen=True)
class Way:
    """How requests reach the service, and what becomes of it."""

    shown: str  # the origin in the browser
    changes: dict[str, Any] = field(default_factory=dict)  # of the settings
    passed_on: dict[str, str] = field(default_factory=dict)  # headers of a proxy
    scheme: str = "http"
    is_secure: bool = True  # the cookie is one of HTTPS
    is_known: bool = True  # the service knows by itself that it is reached by HTTPS


HTTPS = "https://cutout.example"
PROXY = {"X-Forwarded-Proto": "https"}
WAYS = {
    "http alone": Way(HERE, is_secure=False, is_known=False),
    "https alone": Way(HTTPS, scheme="https"),
    "a trusted proxy": Way(HTTPS, {"trusted_proxies": "10.0.0.0/8"}, PROXY),
    "a proxy that nobody trusts": Way(HTTPS, {}, PROXY, is_known=False),
    "a proxy that changes Host": Way(
        "https://photos.example", {"public_url": "https://photos.example/cutout"}, is_known=False
    ),
    "a public address": Way(HTTPS, {"public_url": HTTPS}),
    "beside a public address": Way(
        HERE, {"public_url": "https://photos.example"}, is_secure=False, is_known=False
    ),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_behind_proxies(accounts_file: Path, tmp_path: Path, way: Way) -> None:
    database = Database(f"sqlite:///{shutil.copy(accounts_file, tmp_path)}")
    settings = settings_of(database, tmp_path / "data", **way.changes)
    service = create_app(settings, lambda _: fake_engine())
    headers = FETCH | way.passed_on | {"Origin": way.shown}
    body = {"email": EMAIL, "password": PASSWORD}
    with TestClient(service, f"{way.scheme}://cutout.example", client=("10.1.2.3", 4000)) as client:
        cookie = client.post(SESSION, json=body, headers=headers).raise_for_status().headers["set-cookie"]
        name, _, value = cookie.partition(";")[0].partition("=")
        assert name == (SECURE_COOKIE if way.is_secure else COOKIE)
        assert ("; Secure" in cookie) == way.is_secure
        client.cookies.clear()

        def status(cookie: str, **changes: str) -> int:
            given = headers | {"Cookie": cookie} | changes
            return client.post(KEYS, json={"name": "till"}, headers=given).status_code

        assert status(f"{name}={value}") == 201
        # A sibling's page can set a cookie of the plain name, which says nothing where HTTPS is known.
        assert status(f"{COOKIE}={value}") == (401 if way.is_known else 201)
        assert status(f"{COOKIE}=tossed; {name}={value}") == 201
        # A page that somebody put on the same host without HTTPS.
        plain = way.shown.replace("https://", "http://")
        assert status(f"{name}={value}", Origin=plain) == (403 if way.is_known or plain != HERE else 201)
        assert status(f"{name}={value}", Origin="https://evil.example") == 403
    database.close()
