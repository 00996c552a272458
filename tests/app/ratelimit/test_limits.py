"""Rate limits: over several hosts, without Redis, and while Redis is away."""

import asyncio
import hashlib
import hmac
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest
import structlog
from starlette.testclient import TestClient

from cutout.app.app import create_app, limits_of
from cutout.app.auth import accounts
from cutout.app.config import settings as app_settings
from cutout.app.config.base import SettingsError
from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.db.session import Database
from cutout.app.db.tables import User
from cutout.app.ratelimit import limits as rate_limits
from cutout.app.ratelimit.limits import (
    Kind,
    Limit,
    OwnWindows,
    RateLimited,
    RateLimits,
    SharedWindows,
    Windows,
)
from tests.app.api_client import ANNA, API, BEN, PLATFORM, SECRET, ApiClient
from tests.app.databases import valkey_at
from tests.fakes import PATIENCE, FakeRunner, fake_engine, held_until, photo_bytes
from tests.web import callers

pytestmark = pytest.mark.slow

HOUR = 3600
READS = Limit(3, HOUR)
SOMEBODY = User(id=uuid.uuid4(), subject="local:x", password_hash="hash")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a longer timeout for Redis, because all hosts and clients are one process on a busy host."""
    monkeypatch.setattr(rate_limits, "PATIENCE_SECONDS", PATIENCE)


@contextmanager
def shop_with(database: Database, folder: Path, **changes: object) -> Iterator[ApiClient]:
    """Run a service with its own limits."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings = app_settings.load(
        secret=SECRET, jwt_secret=PLATFORM, database_url=url, data_dir=folder, **changes
    )
    runner = FakeRunner()
    service = create_app(settings, make_engine=lambda _: fake_engine(runner))
    with TestClient(service, base_url="http://cutout.example", raise_server_exceptions=False) as client:
        yield ApiClient(client, database, runner)


def refused(answer: httpx2.Response) -> int:
    """Check that a response is a refusal; return its seconds to wait."""
    assert (answer.status_code, answer.json()["code"]) == (429, "RATE_LIMITED")
    wait = int(answer.headers["retry-after"])
    assert f"Try again in {wait} s" in answer.json()["detail"]
    return wait


async def passes(limits: RateLimits, calls: int, who: str = "anna") -> int:
    """Make `calls` calls one after another; return how many passed."""
    passed = 0
    for _ in range(calls):
        try:
            await limits.take(Kind.READS, who)
        except RateLimited:
            continue
        passed += 1
    return passed


@pytest.mark.parametrize("shared", [False, True])
def test_many_at_once_over_two_hosts_are_as_many_as_may(
    shared: bool, database: Database, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A limit per hour, so that no window ends during the calls.
    monkeypatch.setattr("cutout.app.app.limits_of", lambda _: {Kind.READS: Limit(7, HOUR)})
    url = redis_url if shared else None
    with ExitStack() as stack:
        shops = [
            stack.enter_context(shop_with(database, tmp_path / host, redis_url=url))
            for host in ("one", "two")
        ]
        for one in shops:  # Routes are built at their first call, and the two services share them.
            assert one.get(f"{API}/credits", BEN).status_code == 200
        with ThreadPoolExecutor(50) as pool:
            answers = list(pool.map(lambda n: shops[n % 2].get(f"{API}/credits", ANNA), range(60)))
        expected = 7 if shared else 14
        assert sum(answer.status_code == 200 for answer in answers) == expected
        waits = {refused(answer) for answer in answers if answer.status_code != 200}
        assert HOUR / 2 < min(waits) <= max(waits) <= HOUR
        assert shops[0].get(f"{API}/credits", BEN).status_code == 200


def test_each_kind_is_counted_by_itself_and_a_refused_call_costs_nothing(
    database: Database, tmp_path: Path
) -> None:
    with shop_with(database, tmp_path, remove_per_minute=2, reads_per_minute=6) as shop:
        shop.fund("anna", 100)
        same = {"Idempotency-Key": "k-1"}
        assert [shop.remove(ANNA | same).status_code for _ in range(2)] == [200, 200]
        refused(shop.remove(ANNA | same))
        refused(shop.remove(ANNA))
        (job,) = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
        assert shop.balance(ANNA) == 97
        assert shop.client.get(job["resultUrl"]).status_code == 200
        picture = f"{API}/jobs/{job['jobId']}/image"
        assert shop.get(picture, ANNA).status_code == 200
        price = {"tier": "basic", "imageCount": 1}
        answers = [
            shop.client.post(f"{API}/pricing/calculate", json=price, headers=ANNA),
            shop.get(f"{API}/jobs/{job['jobId']}", ANNA),
            shop.get("/api/auth/keys", ANNA),
        ]
        assert [answer.status_code for answer in answers] == [200] * 3
        refused(shop.get(picture, ANNA))
        refused(shop.get(f"{API}/jobs", ANNA))
        for _ in range(10):
            assert shop.client.get(job["resultUrl"]).status_code == 200
            assert shop.get(f"{API}/pricing", {}).status_code == 200
            assert shop.get("/api/health", {}).status_code == 200


def test_wrong_passwords_are_counted_over_all_hosts(
    database: Database, tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    email = f"{uuid.uuid4()}@shop.example"
    # The real check is slow on purpose.
    right = "correct horse"
    monkeypatch.setattr(accounts, "log_in", lambda _, __, word: SOMEBODY if word == right else None)

    def log_in(shop: ApiClient, password: str, address: str = email) -> httpx2.Response:
        answer: httpx2.Response = shop.client.post(
            "/api/auth/login", json={"email": address, "password": password}
        )
        return answer

    with (
        shop_with(database, tmp_path / "one", redis_url=redis_url) as one,
        shop_with(database, tmp_path / "two", redis_url=redis_url) as two,
    ):
        assert [log_in(one, "correct horse").status_code for _ in range(6)] == [200] * 6
        with ThreadPoolExecutor(12) as pool:
            answers = list(pool.map(lambda n: log_in((one, two)[n % 2], "incorrect"), range(12)))
        assert sorted(answer.status_code for answer in answers) == [401] * 5 + [429] * 7
        refused(log_in(one, "correct horse"))
        refused(log_in(two, "correct horse", f" {email.upper()}"))
        assert log_in(one, "incorrect", f"other-{email}").status_code == 401


def test_of_many_passwords_at_once_a_late_right_one_does_not_pass(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with shop_with(database, tmp_path) as shop:
        checked, wrong_are_told = threading.Barrier(7), threading.Event()

        def log_in(_: Database, email: str, password: str) -> User | None:
            checked.wait(PATIENCE)  # All logins have passed the first check.
            if password == "right":
                held_until(wrong_are_told)
            return SOMEBODY if password == "right" else None

        monkeypatch.setattr(accounts, "PASSWORDS", BoundedExecutor("logins", threads=6, waiting=0))
        monkeypatch.setattr(accounts, "log_in", log_in)
        body = {"email": "owner@shop.example"}
        with ThreadPoolExecutor(8) as pool:
            right = pool.submit(
                lambda: shop.client.post("/api/auth/login", json=body | {"password": "right"})
            )
            wrong = [
                pool.submit(lambda: shop.client.post("/api/auth/login", json=body | {"password": "no"}))
                for _ in range(5)
            ]
            checked.wait(PATIENCE)
            assert {future.result().status_code for future in wrong} == {401}
            wrong_are_told.set()
            refused(right.result())


@pytest.mark.parametrize("shared", [False, True])
def test_after_so_long_a_call_passes_and_not_before(
    shared: bool, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # The clock that is passed to Redis.
    limit = Limit(3, HOUR)

    async def run(windows: Windows, who: str) -> None:
        nonlocal now
        first = now
        for _ in range(3):
            assert await windows.take(limit, Kind.READS, who) == 0
            now += 10
        for _ in range(5):  # A refused call does not prolong the wait.
            wait = await windows.take(limit, Kind.READS, who)
        assert now + wait == pytest.approx(first + HOUR, abs=0.01)
        assert await windows.wait(limit, Kind.READS, who) == pytest.approx(wait, abs=0.01)
        now += wait - 1
        assert await windows.take(limit, Kind.READS, who) > 0
        now += 1.01
        assert await windows.take(limit, Kind.READS, who) == 0
        # The second of the three calls is the next to expire.
        assert await windows.take(limit, Kind.READS, who) == pytest.approx(9.99, abs=0.02)

    async def in_redis() -> None:
        windows = SharedWindows(redis_url)
        await run(windows, str(uuid.uuid4()))
        await windows.close()

    asyncio.run(in_redis() if shared else run(OwnWindows(lambda: now), "anna"))


def test_the_seconds_to_wait_are_whole_and_true() -> None:
    now = 1000.0
    windows = OwnWindows(lambda: now)

    async def take() -> float:
        return await windows.take(Limit(2, 60), Kind.READS, "anna")

    async def run() -> None:
        nonlocal now
        assert [await take(), await take()] == [0, 0]
        now = 1022.3
        assert RateLimited(Kind.READS, READS, wait := await take()).retry_after == 38
        assert wait == pytest.approx(37.7)
        now += 38
        assert [await take(), await take()] == [0, 0]
        now += 59.9999
        assert RateLimited(Kind.READS, READS, await take()).retry_after == 1
        now += 1
        assert await take() == 0

    asyncio.run(run())


def test_no_more_windows_are_kept_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "MOST_WINDOWS", 2)
    windows = OwnWindows()

    async def run() -> None:
        once = Limit(1, 60)
        for who in ("anna", "ben", "carl"):
            assert await windows.take(once, Kind.READS, who) == 0
        assert await windows.take(once, Kind.READS, "carl") > 0
        assert await windows.take(once, Kind.READS, "ben") > 0
        assert await windows.take(once, Kind.READS, "anna") == 0, "forgotten"

    asyncio.run(run())


def test_calls_go_on_without_redis_and_are_counted_together_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate_limits, "PAUSE_SECONDS", 0.2)
    server = valkey_at(tmp_path)
    hosts = [RateLimits({Kind.READS: READS}, f"unix://{server.unix_socket_path}") for _ in range(2)]

    async def both(calls: int, who: str) -> list[int]:
        return [await passes(host, calls, who) for host in hosts]

    async def run() -> None:
        await asyncio.to_thread(server.start)
        assert await both(2, "anna") == [2, 1]
        await asyncio.to_thread(server.stop)
        with structlog.testing.capture_logs() as logs:
            assert await both(5, "anna") == [3, 3]
            await asyncio.sleep(0.25)
            assert await both(5, "ben") == [3, 3]
        assert [entry["event"][:21] for entry in logs] == ["Redis does not answer"] * 2
        assert {entry["log_level"] for entry in logs} == {"warning"}
        await asyncio.to_thread(server.start)
        await asyncio.sleep(0.25)
        with structlog.testing.capture_logs() as logs:
            assert await both(2, "carl") == [2, 1]
        assert [entry["event"][:19] for entry in logs] == ["Redis answers again"] * 2
        await asyncio.to_thread(server.stop)
        with structlog.testing.capture_logs() as logs:
            await both(1, "anna")
        assert len(logs) == 2, "another outage, another warning"
        for host in hosts:
            await host.close()

    asyncio.run(run())


def test_a_redis_that_was_restarted_between_two_calls_is_no_outage(tmp_path: Path) -> None:
    server = valkey_at(tmp_path)
    limits = RateLimits({Kind.READS: READS}, f"unix://{server.unix_socket_path}")

    async def run() -> None:
        await asyncio.to_thread(server.start)
        assert await passes(limits, 3) == 3
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        with structlog.testing.capture_logs() as logs:
            assert await passes(limits, 5) == 3
        assert logs == []
        await limits.close()

    asyncio.run(run())
    server.stop()


def test_a_redis_that_hangs_slows_one_call_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limits, "PATIENCE_SECONDS", 0.4)
    monkeypatch.setattr(rate_limits, "PAUSE_SECONDS", 10 * PATIENCE)

    async def run(limits: RateLimits, hanging: socket.socket) -> None:
        assert await passes(limits, 1) == 1  # Redis hangs during this call.
        assert callers(hanging) > 0
        assert await passes(limits, 49) == 2
        assert callers(hanging) == 0
        await limits.close()

    with socket.create_server(("127.0.0.1", 0)) as hanging, structlog.testing.capture_logs() as logs:
        url = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
        asyncio.run(run(RateLimits({Kind.READS: READS}, url), hanging))
    assert len(logs) == 1
    assert "no answer in 0.4 s" in logs[0]["detail"]


def test_a_wrong_password_for_redis_is_an_outage_and_not_in_the_log(tmp_path: Path) -> None:
    with valkey_at(tmp_path) as server, structlog.testing.capture_logs() as logs:
        with server.client() as client:
            client.config_set("requirepass", "another")
        limits = RateLimits({Kind.READS: READS}, f"unix://:hush@{server.unix_socket_path}")

        async def run() -> None:
            assert await passes(limits, 5) == 3
            await limits.close()

        asyncio.run(run())
    assert len(logs) == 1
    assert "hush" not in str(logs)


def test_redis_learns_no_address_and_no_token(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    with valkey_at(folder) as server:
        url = f"unix://{server.unix_socket_path}"
        with shop_with(database, tmp_path / "data", redis_url=url) as shop:
            user = shop.fund("anna", 10)
            assert shop.get(f"{API}/credits", ANNA).status_code == 200
            assert (
                shop.client.post(
                    "/api/auth/login", json={"email": "a@b.example", "password": "x"}
                ).status_code
                == 401
            )
        with server.client() as client:
            keys = sorted(key.decode() for key in client.keys("*"))
            assert all(0 < client.ttl(key) <= 60 for key in keys)
    address = hashlib.sha256(b"local:a@b.example").hexdigest()
    caller = hmac.new(SECRET.encode(), b"testclient", hashlib.sha256).hexdigest()
    assert keys == [
        f"cutout:limit/login/{address}/5/60/second",
        f"cutout:limit/login_address/{caller}/20/60/second",
        "cutout:limit/login_all/all/300/60/second",
        f"cutout:limit/reads/{user}/120/60/second",
    ]


def test_the_limits_are_the_settings_and_on_ones_own_machine_there_are_none() -> None:
    login = {
        Kind.LOGIN: Limit(5, 60),
        Kind.LOGIN_ADDRESS: Limit(20, 60),
        Kind.LOGIN_ALL: Limit(300, 60),
    }
    assert limits_of(app_settings.load()) == login | {
        Kind.REMOVE: Limit(30, 60),
        Kind.REFINE: Limit(120, 60),
        Kind.BATCH: Limit(5, 3600),
        Kind.BATCH_ATTEMPT: Limit(60, 3600),
        Kind.READS: Limit(120, 60),
    }
    none = app_settings.load(
        remove_per_minute=0,
        refine_per_minute=0,
        batch_per_hour=0,
        batch_attempts_per_hour=0,
        reads_per_minute=0,
    )
    assert limits_of(none) == login
    assert limits_of(app_settings.load(auth="off")) == login
    assert set(limits_of(app_settings.load(login_per_minute=0, all_logins_per_minute=0, auth="off"))) == {
        Kind.LOGIN
    }


def test_an_address_of_another_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "http://:hush@cache.example")
    with pytest.raises(SettingsError, match=r"REDIS_URL: .* rediss://") as caught:
        app_settings.load()
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("REDIS_URL", "rediss://:hush@cache.example/1")
    assert "hush" not in repr(app_settings.load())


def test_a_refused_photo_is_not_worked_on(database: Database, tmp_path: Path) -> None:
    with shop_with(database, tmp_path, remove_per_minute=1) as shop:
        shop.fund("anna", 100)
        runs: list[None] = []
        shop.runner.before = lambda: runs.append(None)
        assert shop.remove(ANNA).status_code == 200
        refused(shop.remove(ANNA, photo_bytes(300, 200)))
        assert len(runs) == 1
        assert len(shop.get(f"{API}/jobs", ANNA).json()["jobs"]) == 1


@pytest.mark.parametrize("shared", [False, True])
def test_what_is_left_is_told_and_not_counted(shared: bool, redis_url: str) -> None:
    async def look() -> None:
        limits = RateLimits({Kind.READS: READS}, redis_url if shared else None)
        who = str(uuid.uuid4())
        try:
            assert await limits.state(Kind.REMOVE, who) is None
            assert await limits.state(Kind.READS, who) == (3, 0)
            for left in (2, 1, 0, 0):
                await passes(limits, 1, who)
                for _ in range(3):
                    state = await limits.state(Kind.READS, who)
                    assert state is not None
                    assert state.left == left
                    assert HOUR / 2 < state.seconds <= HOUR
            assert await limits.state(Kind.READS, "somebody else") == (3, 0)
        finally:
            await limits.close()

    asyncio.run(look())


def test_a_window_is_free_again_when_its_oldest_call_leaves_it() -> None:
    now = 100.0
    windows = OwnWindows(lambda: now)

    async def look() -> None:
        nonlocal now
        for seconds in (0, 10, 20):
            now = 100.0 + seconds
            assert await windows.take(Limit(3, 60), Kind.READS, "anna") == 0
        assert await windows.state(Limit(3, 60), Kind.READS, "anna") == (0, 40)
        now = 161.0
        assert await windows.state(Limit(3, 60), Kind.READS, "anna") == (1, 9)
        now = 500.0
        assert await windows.state(Limit(3, 60), Kind.READS, "anna") == (3, 0)

    asyncio.run(look())
