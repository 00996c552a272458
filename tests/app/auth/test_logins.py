"""Logins by strangers use bounded resources and do not slow down other calls."""

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.auth import accounts
from cutout.app.auth.jwks import KEPT_SECONDS, PAUSE_SECONDS, PublishedKeys
from cutout.app.auth.tokens import FETCHING, InvalidToken, TokenReader, new_api_key
from cutout.app.config.settings import load as load_settings
from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.http.client_address import client_of
from cutout.app.http.uvicorn_server import server_of
from cutout.app.removals import router as removals_router
from cutout.app.removals.executors import RemovalExecutor
from cutout.inference.errors import Overloaded
from tests.app.api_client import ANNA, API, ApiClient, opened_shop, settings_of
from tests.app.http.test_api import problem
from tests.fakes import fake_engine, wait_until

WAIT_SECONDS = 60


class SlowHash:
    """Stand-in for argon2: each check blocks until the test releases it."""

    def __init__(self) -> None:
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.checked: list[str] = []

    def hash(self, password: str) -> str:
        return f"hash of {password}"

    def verify(self, password: str, password_hash: str) -> bool:
        self.checked.append(password_hash)
        self.begun.release()
        assert self.go_on.wait(WAIT_SECONDS)
        return password_hash == self.hash(password)


@pytest.fixture
def slow_hash(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowHash]:
    slow = SlowHash()
    accounts.unknown_users_hash.cache_clear()
    monkeypatch.setattr(accounts, "password_hasher", slow)
    monkeypatch.setattr(accounts, "PASSWORDS", BoundedExecutor("logins", threads=2, waiting=3, retry_after=3))
    yield slow
    slow.go_on.set()
    accounts.unknown_users_hash.cache_clear()


def log_in(shop: ApiClient, email: str, password: str = "wrong password", **headers: str) -> Any:
    return shop.client.post("/api/auth/login", json={"email": email, "password": password}, headers=headers)


def test_fifty_logins_keep_nobody_else_waiting(
    database: Database, tmp_path: Path, slow_hash: SlowHash
) -> None:
    """While two checks hang and three logins wait, other calls are answered and further logins are refused."""
    with opened_shop(database, tmp_path, login_per_minute=0) as shop, ThreadPoolExecutor(50) as pool:
        shop.fund("anna", 50)
        logins = [pool.submit(log_in, shop, f"{n}@shop.example") for n in range(50)]
        for _ in range(2):
            assert slow_hash.begun.acquire(timeout=WAIT_SECONDS)
        for _ in range(20):  # More than the threads of a shared pool.
            assert shop.get(f"{API}/credits", ANNA).status_code == 200
            assert shop.get("/api/health", {}).status_code == 200
        shop.remove(ANNA).raise_for_status()
        try:
            wait_until(lambda: sum(login.done() for login in logins) == 45)
        except AssertionError:
            slow_hash.go_on.set()  # Else shutting down the pool would wait too.
            raise
        assert len(slow_hash.checked) == 2
        refused = [login.result() for login in logins if login.done()]
        for answer in refused:
            problem(answer, 503, "OVERLOADED")
            assert answer.headers["retry-after"] == "3"
        slow_hash.go_on.set()
        answers = [login.result() for login in logins]
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [503] * 45
        # The refused logins take no place in the queue.
        problem(log_in(shop, "later@shop.example"), 401, "UNAUTHENTICATED")


def test_prices_that_hang_keep_nobody_else_waiting(shop: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """This happens while the queue hangs on a host whose photos are processed by workers."""
    go_on = threading.Event()
    serving = BoundedExecutor("prices", threads=2, waiting=3, retry_after=2)
    monkeypatch.setattr(removals_router, "SERVING", serving)
    executor = shop.state.get(RemovalExecutor)
    answer = executor.serving()

    def hang() -> Any:
        assert go_on.wait(WAIT_SECONDS)
        return answer

    monkeypatch.setattr(executor, "serving", hang)
    with ThreadPoolExecutor(30) as pool:
        calls = [pool.submit(shop.get, f"{API}/pricing", {}) for _ in range(30)]
        try:
            wait_until(lambda: sum(call.done() for call in calls) == 25)
        except AssertionError:
            go_on.set()
            raise
        assert shop.get(f"{API}/credits", ANNA).status_code == 200
        go_on.set()
        assert sorted(call.result().status_code for call in calls) == [200] * 5 + [503] * 25


def test_an_unknown_address_costs_the_same_check(database: Database, slow_hash: SlowHash) -> None:
    slow_hash.go_on.set()
    with database.begin() as session:
        accounts.create_local(session, "owner@shop.example", "correct horse")
    for email in ("owner@shop.example", "nobody@shop.example"):
        assert accounts.log_in(database, email, "incorrect") is None
    assert len(slow_hash.checked) == 2
    assert slow_hash.checked[0] == "hash of correct horse"


def test_logins_are_counted_by_client_address_and_in_all(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "log_in", lambda *_: None)
    changes = {"login_per_minute": 3, "all_logins_per_minute": 7, "trusted_proxies": "10.0.0.0/8"}
    settings = settings_of(database, tmp_path / "data", **changes)
    service = create_app(settings, make_engine=lambda _: fake_engine())
    with TestClient(service, client=("10.1.2.3", 4000)) as client:
        emails = (f"{n}@shop.example" for n in range(100))

        def from_address(forwarded: str) -> int:
            body = {"email": next(emails), "password": "wrong password"}
            answer = client.post("/api/auth/login", json=body, headers={"X-Forwarded-For": forwarded})
            if answer.status_code == 429:
                assert int(answer.headers["retry-after"]) > 0
            return answer.status_code

        assert [from_address("203.0.113.7") for _ in range(5)] == [401] * 3 + [429] * 2
        # Entries that the client wrote before the proxy's own count for nothing, nor does another address of the
        # client's network.
        assert from_address("198.51.100.1, 203.0.113.7") == 429
        assert [from_address(f"2001:db8:1:2::{n}") for n in range(1, 5)] == [401] * 3 + [429]
        # Six of the seven logins for all addresses are used; the refused ones above used none.
        assert [from_address(f"198.51.100.{n}") for n in range(1, 4)] == [401, 429, 429]


def test_nobody_believes_x_forwarded_for_by_default(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "log_in", lambda *_: None)
    with opened_shop(database, tmp_path, login_per_minute=3) as shop:
        answers = [
            log_in(shop, f"{n}@shop.example", **{"X-Forwarded-For": f"203.0.113.{n}"}).status_code
            for n in range(4)
        ]
    assert answers == [401] * 3 + [429]


def test_the_server_believes_no_header_by_itself(tmp_path: Path) -> None:
    """Uvicorn by itself would trust calls from this machine, where a proxy passes on headers that its clients write."""
    settings = load_settings(data_dir=tmp_path)
    server = server_of(create_app(settings, make_engine=lambda _: fake_engine()), settings)
    assert server.config.proxy_headers is False


@pytest.mark.parametrize(
    ("host", "counted"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("somewhere", "somewhere"),
    ],
)
def test_a_network_of_one_customer_counts_as_one(host: str, counted: str) -> None:
    assert client_of(Request({"type": "http", "client": (host, 1), "headers": []})) == counted
    assert client_of(Request({"type": "http", "client": None, "headers": []})) == ""


def test_an_executor_refuses_what_would_wait_too_long_and_forgets_what_was_cancelled() -> None:
    async def run() -> None:
        executor = BoundedExecutor("test", threads=1, waiting=1, retry_after=7)
        go_on = threading.Event()
        ran: list[str] = []
        first = asyncio.create_task(executor.run(go_on.wait, WAIT_SECONDS))
        second = asyncio.create_task(executor.run(ran.append, "second"))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="test") as refused:
            await executor.run(ran.append, "third")
        assert refused.value.retry_after == 7
        second.cancel()
        await asyncio.gather(second, return_exceptions=True)
        fourth = asyncio.create_task(executor.run(ran.append, "fourth"))
        go_on.set()
        assert await first
        await fourth
        assert ran == ["fourth"]

    asyncio.run(run())


def test_an_executor_gives_its_place_back_also_after_an_error() -> None:
    async def run() -> None:
        executor = BoundedExecutor("test", threads=1, waiting=0)
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                await executor.run(lambda: 1 // 0)

    asyncio.run(run())


def test_a_mistyped_key_asks_no_database(shop: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    by_key = accounts.by_key

    def by_key_seen(session: Session, key: str) -> User:
        asked.append(key)
        return by_key(session, key)

    monkeypatch.setattr(accounts, "by_key", by_key_seen)
    made_up = new_api_key()
    for key in ("cutout_" + 46 * "x", made_up[:-1], made_up):
        problem(shop.get(f"{API}/credits", {"X-Api-Key": key}), 401, "UNAUTHENTICATED")
    assert asked == [made_up]


PRIVATE = rsa.generate_private_key(public_exponent=65537, key_size=2048)
KEY = jwt.PyJWK(RSAAlgorithm.to_jwk(PRIVATE.public_key(), as_dict=True) | {"kid": "k-1"})


class Platform:
    """Publishes keys: at once, when released, or never."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.fetched = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.is_away = False
        self.keys = PublishedKeys("https://platform.example/keys", self.fetch, lambda: self.now)

    def fetch(self) -> dict[str, jwt.PyJWK]:
        self.fetched += 1
        assert self.go_on.wait(WAIT_SECONDS)
        if self.is_away:
            raise jwt.PyJWKClientConnectionError("away")
        return {"k-1": KEY}


def refuses(keys: PublishedKeys, kid: str | None, error: type[Exception] = jwt.PyJWKClientError) -> None:
    with pytest.raises(error):
        keys.find(kid)


def test_unknown_keys_do_not_have_the_platform_asked_each_time() -> None:
    platform = Platform()
    for n in range(50):
        refuses(platform.keys, f"made up {n}")
    assert platform.fetched == 1
    platform.now += PAUSE_SECONDS
    refuses(platform.keys, None)
    assert platform.fetched == 2
    assert platform.keys.find("k-1") is KEY
    assert platform.fetched == 2


def test_keys_are_kept_for_a_while_where_they_cannot_be_fetched_again() -> None:
    platform = Platform()
    assert platform.keys.find("k-1") is KEY
    platform.is_away = True
    platform.now += KEPT_SECONDS - 1
    assert platform.keys.find("k-1") is KEY
    assert platform.fetched == 2
    refuses(platform.keys, "k-2", jwt.PyJWKClientConnectionError)
    platform.now += 1
    refuses(platform.keys, "k-1", jwt.PyJWKClientConnectionError)
    assert platform.fetched == 2, "it was asked a moment ago"


def test_good_tokens_do_not_wait_while_a_bad_one_has_keys_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    platform = Platform()
    platform.keys.find("k-1")
    platform.now += 2 * PAUSE_SECONDS
    platform.go_on.clear()
    reader = TokenReader("own secret of thirty-two bytes !!", jwks_url="https://platform.example/keys")
    reader._published = platform.keys
    claims = {"sub": "u-1", "exp": 4_000_000_000}
    bad, good = (jwt.encode(claims, PRIVATE, "RS256", headers={"kid": kid}) for kid in ("k-2", "k-1"))

    async def run() -> None:
        waiting = [asyncio.create_task(reader.read_aside(bad)) for _ in range(80)]
        while platform.fetched < 2:
            await asyncio.sleep(0.01)
        platform.now += 1000  # The cached keys have expired by now, and are being fetched.
        assert (await reader.read_aside(good)).subject == "u-1"
        done = [task for task in waiting if task.done()]
        assert len(done) == 80 - FETCHING._most
        assert all(isinstance(task.exception(), Overloaded) for task in done)
        platform.go_on.set()
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert sum(isinstance(outcome, InvalidToken) for outcome in outcomes) == FETCHING._most

    asyncio.run(run())
    assert platform.fetched == 2


LOG = structlog.contextvars.merge_contextvars


def test_the_log_says_who_called_from_where_and_why_not(shop: ApiClient) -> None:
    user_id = shop.fund("anna", 50)
    expired = jwt.encode({"sub": "x", "exp": 1}, "k" * 32, "HS256")
    made_up = new_api_key()
    callers: list[tuple[Callable[[], Any], str]] = [
        (lambda: shop.get(f"{API}/credits", {"Authorization": f"Bearer {expired}"}), "InvalidSignatureError"),
        (lambda: shop.get(f"{API}/credits", {"X-Api-Key": made_up}), f"{made_up[:11]}…: unknown"),
        (lambda: shop.get(f"{API}/credits", {}), "Send an API key"),
        (lambda: log_in(shop, "secret@shop.example"), "login: no such account, or a wrong password"),
    ]
    for call, reason in callers:
        with structlog.testing.capture_logs(processors=[LOG]) as logs:
            answer = call()
        problem(answer, 401, "UNAUTHENTICATED")
        (why,) = [line for line in logs if line["event"] == "not authenticated"]
        assert reason in why["reason"]
        assert why["client"] == "testclient"
        assert why["request"] == answer.headers["x-request-id"]
        assert "InvalidSignature" not in answer.text
        assert made_up not in str(logs)
        assert "secret@" not in str(logs)
    with structlog.testing.capture_logs(processors=[LOG]) as logs:
        job = shop.remove(ANNA).raise_for_status().json()
    (line,) = [line for line in logs if line["event"] == "request"]
    assert (line["user"], line["job"], line["client"]) == (str(user_id), job["jobId"], "testclient")
    uuid.UUID(line["request"])
    with structlog.testing.capture_logs(processors=[LOG]) as logs:
        shop.get(f"{API}/jobs/{job['jobId']}", ANNA)
    assert (logs[-1]["user"], logs[-1]["job"]) == (str(user_id), job["jobId"])
    with structlog.testing.capture_logs(processors=[LOG]) as logs:
        shop.get("/api/health", {})
    assert not {"user", "job"} & set(logs[-1]), "nothing of the call before"
