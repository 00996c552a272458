"""Billing of removals over HTTP: who pays, how much, and when nothing is charged."""

import asyncio
import threading
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, now
from cutout.app.jobs import queries as jobs
from cutout.app.removals import lost_jobs
from cutout.app.removals import service as removals
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.api_client import (
    ADMIN,
    ANNA,
    API,
    PLATFORM,
    SECRET,
    ApiClient,
    bearer,
    engine_of,
    place_of,
    reserved,
)
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import PATIENCE, FakeRunner, held_until, photo_bytes, wait_until

pytestmark = pytest.mark.slow


@on_both
def test_a_removal_is_charged_once_it_is_done(shop: ApiClient) -> None:
    shop.fund("anna", 20)
    answer = shop.remove(ANNA, tier="professional").raise_for_status().json()
    assert (answer["credits"], answer["status"]) == (15, "completed")
    assert shop.balance(ANNA) == 5
    entries = shop.get(f"{API}/credits", ANNA).json()["entries"]
    assert [(entry["movement"], entry["credits"]) for entry in entries] == [
        ("charge", 0),
        ("hold", -15),
        ("grant", 20),
    ]
    body = problem(shop.remove(ANNA, tier="professional"), 402, "INSUFFICIENT_CREDITS")
    assert (body["required"], body["available"]) == (15, 5)
    assert shop.balance(ANNA) == 5
    assert len(shop.get(f"{API}/jobs", ANNA).json()["jobs"]) == 1, "what was refused is no job"


@on_both
@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "INVALID_IMAGE"), (b"I am text", "UNSUPPORTED_FORMAT"), (photo_bytes()[:200], "INVALID_IMAGE")],
)
def test_what_fails_costs_nothing_and_says_why(shop: ApiClient, data: bytes, code: str) -> None:
    shop.fund("anna", 20)
    assert shop.remove(ANNA, data).json()["code"] == code
    assert shop.balance(ANNA) == 20
    (job,) = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert (job["status"], job["credits"], job["error"]["code"]) == ("failed", 0, code)
    assert job["resultUrl"] is None


@on_both
def test_a_network_that_breaks_costs_nothing(shop: ApiClient) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    shop.fund("anna", 20)
    shop.runner.before = broken
    problem(shop.remove(ANNA), 500, "INTERNAL")
    assert shop.balance(ANNA) == 20


@on_both
def test_a_disk_that_is_full_costs_nothing(shop: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fund("anna", 20)
    monkeypatch.setattr("cutout.app.storage.local.write_whole", full)
    problem(shop.remove(ANNA), 503, "STORAGE_UNAVAILABLE")
    assert shop.balance(ANNA) == 20


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@on_both
def test_only_who_proves_it_gets_in(shop: ApiClient) -> None:
    for who in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YTpi"},
        {"X-Api-Key": "cutout_nonsense"},
        bearer("anna", exp=datetime.now(UTC) - timedelta(hours=1)),
    ):
        answer = shop.remove(who)
        problem(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"


@on_both
def test_a_signed_address_ends(shop: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.fund("anna", 20)
    url = shop.remove(ANNA).raise_for_status().json()["resultUrl"]
    later = datetime.now(UTC) + timedelta(days=7, minutes=1)
    monkeypatch.setattr("cutout.app.auth.signed_urls.time.time", later.timestamp)
    problem(shop.get(url, {}), 404, "NOT_FOUND")


@on_both
def test_credits_are_granted_by_an_admin_once(shop: ApiClient) -> None:
    user_id = shop.fund("anna", 1)
    wanted = {"userId": str(user_id), "credits": 100, "key": "invoice-7", "note": "bought"}
    for granted in (True, False):
        answer = shop.client.post(f"{API}/admin/credits", json=wanted, headers=ADMIN)
        assert answer.json() == {"granted": granted, "balance": 101}
    stranger = wanted | {"userId": str(uuid.uuid4())}
    problem(shop.client.post(f"{API}/admin/credits", json=stranger, headers=ADMIN), 404, "NOT_FOUND")
    bad = wanted | {"credits": 0}
    problem(shop.client.post(f"{API}/admin/credits", json=bad, headers=ADMIN), 400, "INVALID_INPUT")


@on_both
def test_a_price_is_calculated(shop: ApiClient) -> None:
    def ask(**wanted: object) -> httpx2.Response:
        answer: httpx2.Response = shop.client.post(f"{API}/pricing/calculate", json=wanted, headers=ANNA)
        return answer

    assert ask(tier="standard", imageCount=100).json() == {
        "tier": "standard",
        "imageCount": 100,
        "frames": 1,
        "creditsPerImage": 8,
        "totalCredits": 800,
        "discountPercent": 10,
        "discountCredits": 80,
        "finalCredits": 720,
        "finalRupiah": 72_000,
    }
    for wanted in (
        {"tier": "basic", "imageCount": 501},
        {"tier": "basic", "imageCount": 0},
        {"tier": "gold", "imageCount": 1},
    ):
        problem(ask(**wanted), 400, "INVALID_INPUT")


@on_both
def test_jobs_are_filtered_and_paged(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    for tier in ("basic", "standard", "basic"):
        shop.remove(ANNA, tier=tier).raise_for_status()
    shop.remove(ANNA, b"I am text")

    def tiers(**query: str | int) -> list[str]:
        answer = shop.client.get(f"{API}/jobs", params=query, headers=ANNA).raise_for_status()
        return [job["tier"] for job in answer.json()["jobs"]]

    assert tiers() == ["basic", "basic", "standard", "basic"]
    assert tiers(status="completed") == ["basic", "standard", "basic"]
    assert tiers(status="completed", tier="basic") == ["basic", "basic"]
    assert tiers(limit=2, offset=1) == ["basic", "standard"]
    assert tiers(since=(now() + timedelta(minutes=1)).isoformat()) == []
    assert len(tiers(until=(now() + timedelta(minutes=1)).isoformat())) == 4


@on_both
def test_logging_in_and_keys(shop: ApiClient) -> None:
    with shop.database.begin() as session:
        accounts.create_local(session, "owner@shop.example", "correct horse")
    right = {"email": "Owner@shop.example", "password": "correct horse"}
    token = shop.client.post("/api/auth/login", json=right).raise_for_status().json()["accessToken"]
    who = {"Authorization": f"Bearer {token}"}
    made = shop.client.post("/api/auth/keys", json={"name": "laptop"}, headers=who).raise_for_status().json()
    by_key = {"X-Api-Key": made["key"]}
    (listed,) = shop.get("/api/auth/keys", by_key).json()["keys"]
    assert (listed["name"], listed["revokedAt"]) == ("laptop", None)
    assert "key" not in listed
    assert shop.client.delete(f"/api/auth/keys/{made['id']}", headers=who).status_code == 204
    problem(shop.get("/api/auth/keys", by_key), 401, "UNAUTHENTICATED")

    wrong = right | {"password": "incorrect horse"}
    for _ in range(5):
        problem(shop.client.post("/api/auth/login", json=wrong), 401, "UNAUTHENTICATED")
    answer = shop.client.post("/api/auth/login", json=right)
    problem(answer, 429, "RATE_LIMITED")
    assert 0 < int(answer.headers["retry-after"]) <= 60


@on_both
def test_two_hundred_removals_at_once_with_credits_for_fifty(database: Database, tmp_path: Path) -> None:
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 150, "grant:anna")
    place = place_of(database, tmp_path, FakeRunner())

    async def all_at_once() -> list[object]:
        calls = (removals.remove_one(place, user.id, photo_bytes(), Options()) for _ in range(200))
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(all_at_once())
    engine_of(place).close()
    refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientCredits)]
    assert (len(refused), sum(isinstance(outcome, tuple) for outcome in outcomes)) == (150, 50)
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 0
        assert ledger.discrepancies(session) == {}
        assert (
            session.query(Job).filter(Job.status == Status.COMPLETED).count()
            == session.query(Job).count()
            == 50
        )


@on_both
def test_a_caller_who_hangs_up_pays_nothing(database: Database, tmp_path: Path) -> None:
    go_on = threading.Event()
    runner = FakeRunner()
    place = place_of(database, tmp_path, runner)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 10, "grant:anna")
    started = threading.Event()

    def wait() -> None:
        started.set()
        held_until(go_on)

    runner.before = wait

    async def hang_up() -> None:
        call = asyncio.create_task(removals.remove_one(place, user.id, photo_bytes(), Options()))
        await asyncio.to_thread(started.wait)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    asyncio.run(hang_up())
    go_on.set()
    engine_of(place).close()
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 10
        assert [job.status for job in session.query(Job)] == [Status.FAILED]


@on_both
def test_what_a_crash_left_open_is_settled(database: Database, tmp_path: Path) -> None:
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 50, "grant:anna")
    crashed = [reserved(place, user.id, b"", Options(tier=Tier.BASIC))[0] for _ in range(3)]
    standard = Options(tier=Tier.STANDARD)
    in_work = reserved(place_of(database, tmp_path, FakeRunner()), user.id, b"", standard)[0]
    assert lost_jobs.fail_lost_jobs(database) == 3
    assert lost_jobs.fail_lost_jobs(database) == 0
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 50 - 8
        assert ledger.discrepancies(session) == {}
        assert session.get(Job, in_work).status is Status.PROCESSING  # type: ignore[union-attr]
    found = jobs.find(database, user.id, crashed[0])
    assert found is not None
    assert (found.status, found.error_code) == (Status.FAILED, "INTERNAL")
    assert "Nothing was charged" in (found.error_detail or "")
    assert not lost_jobs.fail(database, crashed[0], "INTERNAL", "again")


@on_both
def test_a_database_that_goes_away_is_said_and_costs_nothing(
    shop: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is away when the charge is to be committed; health reports it; then everything works again."""
    shop.fund("anna", 20)
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        held_until(go_on)

    shop.runner.before = wait
    answers: list[httpx2.Response] = []
    caller = threading.Thread(target=lambda: answers.append(shop.remove(ANNA)))
    caller.start()
    assert started.wait(PATIENCE)
    own: Database = shop.state.get(Database)
    begin = own.begin
    nowhere = Database("postgresql://nobody@127.0.0.1:9/nothing?connect_timeout=1")
    monkeypatch.setattr(own, "begin", nowhere.begin)
    monkeypatch.setattr(own, "read", nowhere.read)
    assert shop.get("/api/health", {}).status_code == 503
    assert shop.get("/api/health", {}).json()["status"] == "degraded"
    go_on.set()
    caller.join(PATIENCE)
    problem(answers[0], 503, "DATABASE_UNAVAILABLE")
    problem(shop.get(f"{API}/credits", ANNA), 503, "DATABASE_UNAVAILABLE")
    monkeypatch.undo()
    assert own.begin == begin
    # The service releases the credits by itself, long before the lease ends.
    wait_until(lambda: shop.balance(ANNA) == 20, 60)
    (job,) = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert job["error"]["code"] == "DATABASE_UNAVAILABLE"
    assert "UPDATE" not in job["error"]["detail"]
    assert lost_jobs.fail_lost_jobs(shop.database) == 0
    assert shop.get("/api/health", {}).json()["status"] == "ok"


@on_both
def test_no_secret_reaches_the_log_or_an_answer(capsys: pytest.CaptureFixture[str], shop: ApiClient) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    password = "correct horse battery"
    with shop.database.begin() as session:
        user = accounts.create_local(session, "owner@shop.example", password)
        key, _ = accounts.create_key(session, user, "laptop")
        ledger.grant(session, user.id, 100, "grant:owner")
    token = ANNA["Authorization"].removeprefix("Bearer ")
    answers = [
        shop.client.post("/api/auth/login", json={"email": "owner@shop.example", "password": password + "!"}),
        shop.client.post("/api/auth/login", json={"email": "owner@shop.example", "password": [password]}),
        shop.remove({"X-Api-Key": key}),
        shop.remove({"X-Api-Key": key[:-1]}),
        shop.remove(ANNA),
        shop.remove({"Authorization": f"Bearer {token}x"}),
    ]
    shop.runner.before = broken
    answers.append(shop.remove({"X-Api-Key": key}))
    assert [answer.status_code for answer in answers] == [401, 400, 200, 401, 402, 401, 500]
    logged = "".join(capsys.readouterr())
    assert "Background removed successfully" in logged
    assert "surprise" in logged, "the log has what the answer does not"
    told = "".join(answer.text for answer in answers)
    assert "surprise" not in told
    for secret in (password, key, key[12:-1], token, SECRET, PLATFORM):
        assert secret not in logged
        assert secret not in told


@on_both
def test_pictures_of_every_format_are_found_again(shop: ApiClient) -> None:
    shop.fund("anna", 100)
    for file_format in Format:
        job = shop.remove(ANNA, format=file_format.value).raise_for_status().json()
        made = Format.PNG if file_format is Format.AUTO else file_format
        assert shop.get(job["resultUrl"], {}).headers["content-type"] == made.media_type
