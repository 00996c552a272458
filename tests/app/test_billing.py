"""Removals that cost credits, over HTTP with accounts: who pays, what, and when nothing."""

import asyncio
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from sqlalchemy import text
from starlette.testclient import TestClient

from app import settings as app_settings
from app.db.session import Database
from app.db.tables import Job, Status, now
from app.main import create_app
from app.services import accounts, credits, removals
from app.services.credits import InsufficientCredits
from app.services.removals import Workplace
from app.services.tokens import Claims
from app.storage.local import LocalStorage
from inference.encode import Format
from inference.limits import Limits
from inference.options import Options
from inference.tiers import Tier
from tests.app.test_api import problem
from tests.fakes import FakeRunner, fake_engine, held_until, photo_bytes

SECRET, PLATFORM = "our own secret, of thirty-two bytes or more", "the platform's secret, as long as ours is"
API = "/api/background-remover"


def bearer(subject: str, role: str = "user", **changes: Any) -> dict[str, str]:
    claims = {"sub": subject, "role": role, "exp": datetime.now(UTC) + timedelta(hours=1)} | changes
    return {"Authorization": f"Bearer {jwt.encode(claims, PLATFORM, 'HS256')}"}


ADMIN = bearer("boss", "admin")
ANNA, BEN = bearer("anna"), bearer("ben")


@dataclass
class Service:
    """A service with accounts, on a fake network."""

    client: TestClient
    database: Database
    runner: FakeRunner

    def remove(self, who: dict[str, str], data: bytes | None = None, **fields: str) -> httpx2.Response:
        files = {"image": ("photo.png", photo_bytes() if data is None else data, "image/png")}
        answer: httpx2.Response = self.client.post(f"{API}/remove", files=files, data=fields, headers=who)
        return answer

    def get(self, path: str, who: dict[str, str]) -> httpx2.Response:
        answer: httpx2.Response = self.client.get(path, headers=who)
        return answer

    def balance(self, who: dict[str, str]) -> int:
        with self.database.begin() as session:
            assert credits.discrepancies(session) == {}
        return int(self.get(f"{API}/credits", who).raise_for_status().json()["balance"])

    def fund(self, subject: str, amount: int) -> uuid.UUID:
        with self.database.begin() as session:
            user = accounts.seen(session, Claims(subject))
            credits.grant(session, user.id, amount, f"grant:{subject}:{uuid.uuid4()}")
            return user.id


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Iterator[Service]:
    url = database.engine.url.render_as_string(hide_password=False)
    settings = app_settings.load(
        secret=SECRET, jwt_secret=PLATFORM, database_url=url, data_dir=tmp_path / "data", max_upload_mb=1
    )
    runner = FakeRunner()
    app = create_app(settings, make_engine=lambda _: fake_engine(runner))
    with TestClient(app, base_url="http://cutout.example", raise_server_exceptions=False) as client:
        yield Service(client, database, runner)


def test_a_removal_is_charged_once_it_is_done(service: Service) -> None:
    service.fund("anna", 20)
    answer = service.remove(ANNA, tier="professional").raise_for_status().json()
    assert (answer["credits"], answer["status"]) == (15, "completed")
    assert service.balance(ANNA) == 5
    entries = service.get(f"{API}/credits", ANNA).json()["entries"]
    assert [(entry["movement"], entry["credits"]) for entry in entries] == [
        ("charge", 0),
        ("hold", -15),
        ("grant", 20),
    ]
    body = problem(service.remove(ANNA, tier="professional"), 402, "INSUFFICIENT_CREDITS")
    assert (body["required"], body["available"]) == (15, 5)
    assert service.balance(ANNA) == 5
    assert len(service.get(f"{API}/jobs", ANNA).json()["jobs"]) == 1, "what was refused is no job"


@pytest.mark.parametrize(
    ("data", "code"),
    [(b"", "INVALID_IMAGE"), (b"I am text", "UNSUPPORTED_FORMAT"), (photo_bytes()[:200], "INVALID_IMAGE")],
)
def test_what_fails_costs_nothing_and_says_why(service: Service, data: bytes, code: str) -> None:
    service.fund("anna", 20)
    assert service.remove(ANNA, data).json()["code"] == code
    assert service.balance(ANNA) == 20
    (job,) = service.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert (job["status"], job["credits"], job["error"]["code"]) == ("failed", 0, code)
    assert job["resultUrl"] is None


def test_a_network_that_breaks_costs_nothing(service: Service) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    service.fund("anna", 20)
    service.runner.before = broken
    problem(service.remove(ANNA), 500, "INTERNAL")
    assert service.balance(ANNA) == 20


def test_a_disk_that_is_full_costs_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.fund("anna", 20)
    monkeypatch.setattr("app.storage.local.write_whole", full)
    problem(service.remove(ANNA), 503, "STORAGE_UNAVAILABLE")
    assert service.balance(ANNA) == 20


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_only_who_proves_it_gets_in(service: Service) -> None:
    for who in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YTpi"},
        {"X-Api-Key": "cutout_nonsense"},
        bearer("anna", exp=datetime.now(UTC) - timedelta(hours=1)),
    ):
        answer = service.remove(who)
        problem(answer, 401, "UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_nobody_sees_what_is_anothers(service: Service) -> None:
    service.fund("anna", 20)
    job = service.remove(ANNA).raise_for_status().json()
    for path in (f"{API}/jobs/{job['jobId']}", f"{API}/jobs/{job['jobId']}/image"):
        assert service.get(path, ANNA).status_code == 200
        problem(service.get(path, BEN), 404, "NOT_FOUND")
        problem(service.get(path, ADMIN), 404, "NOT_FOUND")
        problem(service.get(path, {}), 401, "UNAUTHENTICATED")
    assert service.get(f"{API}/jobs", BEN).json()["jobs"] == []
    assert service.get(f"{API}/credits", BEN).json() == {"balance": 0, "entries": []}


def test_a_signed_address_works_without_a_key_and_for_nothing_else(service: Service) -> None:
    service.fund("anna", 20)
    first, second = (service.remove(ANNA).raise_for_status().json() for _ in range(2))
    url = first["resultUrl"]
    assert service.get(url, {}).headers["content-type"] == "image/png"
    altered = [
        url.replace(first["jobId"], second["jobId"]),
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        url.replace("expires=", "expires=1"),
    ]
    for other in altered:
        problem(service.get(other, {}), 404, "NOT_FOUND")


def test_a_signed_address_ends(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.fund("anna", 20)
    url = service.remove(ANNA).raise_for_status().json()["resultUrl"]
    later = datetime.now(UTC) + timedelta(days=7, minutes=1)
    monkeypatch.setattr("app.services.signing.time.time", later.timestamp)
    problem(service.get(url, {}), 404, "NOT_FOUND")


def test_credits_are_granted_by_an_admin_once(service: Service) -> None:
    user_id = service.fund("anna", 1)
    wanted = {"userId": str(user_id), "credits": 100, "key": "invoice-7", "note": "bought"}
    problem(service.client.post(f"{API}/admin/credits", json=wanted, headers=ANNA), 403, "FORBIDDEN")
    for granted in (True, False):
        answer = service.client.post(f"{API}/admin/credits", json=wanted, headers=ADMIN)
        assert answer.json() == {"granted": granted, "balance": 101}
    stranger = wanted | {"userId": str(uuid.uuid4())}
    problem(service.client.post(f"{API}/admin/credits", json=stranger, headers=ADMIN), 404, "NOT_FOUND")
    bad = wanted | {"credits": 0}
    problem(service.client.post(f"{API}/admin/credits", json=bad, headers=ADMIN), 400, "INVALID_INPUT")


def test_a_price_is_calculated(service: Service) -> None:
    def ask(**wanted: object) -> httpx2.Response:
        answer: httpx2.Response = service.client.post(f"{API}/pricing/calculate", json=wanted, headers=ANNA)
        return answer

    assert ask(tier="standard", imageCount=100).json() == {
        "tier": "standard",
        "imageCount": 100,
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


def test_jobs_are_filtered_and_paged(service: Service) -> None:
    service.fund("anna", 100)
    for tier in ("basic", "standard", "basic"):
        service.remove(ANNA, tier=tier).raise_for_status()
    service.remove(ANNA, b"I am text")

    def tiers(**query: str | int) -> list[str]:
        answer = service.client.get(f"{API}/jobs", params=query, headers=ANNA).raise_for_status()
        return [job["tier"] for job in answer.json()["jobs"]]

    assert tiers() == ["basic", "basic", "standard", "basic"]
    assert tiers(status="completed") == ["basic", "standard", "basic"]
    assert tiers(status="completed", tier="basic") == ["basic", "basic"]
    assert tiers(limit=2, offset=1) == ["basic", "standard"]
    assert tiers(since=(now() + timedelta(minutes=1)).isoformat()) == []
    assert len(tiers(until=(now() + timedelta(minutes=1)).isoformat())) == 4


def test_logging_in_and_keys(service: Service) -> None:
    with service.database.begin() as session:
        accounts.create_local(session, "owner@shop.example", "correct horse")
    right = {"email": "Owner@shop.example", "password": "correct horse"}
    token = service.client.post("/api/auth/login", json=right).raise_for_status().json()["accessToken"]
    who = {"Authorization": f"Bearer {token}"}
    made = (
        service.client.post("/api/auth/keys", json={"name": "laptop"}, headers=who).raise_for_status().json()
    )
    by_key = {"X-Api-Key": made["key"]}
    (listed,) = service.get("/api/auth/keys", by_key).json()["keys"]
    assert (listed["name"], listed["revokedAt"]) == ("laptop", None)
    assert "key" not in listed
    problem(service.client.delete(f"/api/auth/keys/{made['id']}", headers=BEN), 404, "NOT_FOUND")
    assert service.client.delete(f"/api/auth/keys/{made['id']}", headers=who).status_code == 204
    problem(service.get("/api/auth/keys", by_key), 401, "UNAUTHENTICATED")

    wrong = right | {"password": "incorrect horse"}
    for _ in range(5):
        problem(service.client.post("/api/auth/login", json=wrong), 401, "UNAUTHENTICATED")
    answer = service.client.post("/api/auth/login", json=right)
    problem(answer, 429, "RATE_LIMITED")
    assert 0 < int(answer.headers["retry-after"]) <= 60


def place_of(database: Database, folder: Path, runner: FakeRunner, lease: float = 60) -> Workplace:
    engine = fake_engine(runner, Limits(threads=4, waiting=1000))
    return Workplace(engine, LocalStorage(folder), database, timedelta(seconds=lease))


def test_two_hundred_removals_at_once_with_credits_for_fifty(database: Database, tmp_path: Path) -> None:
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 150, "grant:anna")
    place = place_of(database, tmp_path, FakeRunner())

    async def all_at_once() -> list[object]:
        calls = (removals.remove_one(place, user.id, photo_bytes(), Options()) for _ in range(200))
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(all_at_once())
    place.engine.close()
    refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientCredits)]
    assert (len(refused), sum(isinstance(outcome, tuple) for outcome in outcomes)) == (150, 50)
    with database.begin() as session:
        assert credits.balance(session, user.id) == 0
        assert credits.discrepancies(session) == {}
        assert (
            session.query(Job).filter(Job.status == Status.COMPLETED).count()
            == session.query(Job).count()
            == 50
        )


def test_a_caller_who_hangs_up_pays_nothing(database: Database, tmp_path: Path) -> None:
    go_on = threading.Event()
    runner = FakeRunner()
    place = place_of(database, tmp_path, runner)
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 10, "grant:anna")
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
    place.engine.close()
    with database.begin() as session:
        assert credits.balance(session, user.id) == 10
        assert [job.status for job in session.query(Job)] == [Status.FAILED]


def test_what_a_crash_left_open_is_settled(database: Database, tmp_path: Path) -> None:
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 50, "grant:anna")
    crashed = [removals._begin(place, user.id, b"", Options(tier=Tier.BASIC), None)[0] for _ in range(3)]
    in_work = removals._begin(
        place_of(database, tmp_path, FakeRunner()), user.id, b"", Options(tier=Tier.STANDARD), None
    )[0]
    assert removals.settle_lost(database) == 3
    assert removals.settle_lost(database) == 0
    with database.begin() as session:
        assert credits.balance(session, user.id) == 50 - 8
        assert credits.discrepancies(session) == {}
        assert session.get(Job, in_work).status is Status.PROCESSING  # type: ignore[union-attr]
    found = removals.find(database, user.id, crashed[0])
    assert found is not None
    assert (found.status, found.error_code) == (Status.FAILED, "INTERNAL")
    assert "Nothing was charged" in (found.error_detail or "")
    assert not removals.fail(database, crashed[0], "INTERNAL", "again")


def test_the_same_key_is_one_removal(service: Service) -> None:
    service.fund("anna", 50)
    service.fund("ben", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    first, second = (service.remove(keyed).raise_for_status().json() for _ in range(2))
    assert first["jobId"] == second["jobId"]
    picture = service.remove(keyed | {"Accept": "image/png"})
    assert picture.content == service.get(first["resultUrl"], {}).content
    assert picture.headers["x-cutout-model"] == "isnet-general"
    assert service.balance(ANNA) == 47
    for other in (service.remove(keyed, photo_bytes(seed=1)), service.remove(keyed, tier="standard")):
        problem(other, 409, "CONFLICT")
    assert service.balance(ANNA) == 47
    others = service.remove(BEN | {"Idempotency-Key": "order-1"}).raise_for_status().json()
    assert others["jobId"] != first["jobId"]
    problem(service.remove(ANNA | {"Idempotency-Key": "k" * 256}), 400, "INVALID_INPUT")


def test_a_picture_that_is_gone_is_said_and_not_sold_again(service: Service, tmp_path: Path) -> None:
    service.fund("anna", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    service.remove(keyed).raise_for_status()
    for file in (tmp_path / "data/results").iterdir():
        file.unlink()
    for accept in ("image/png", "application/json"):
        problem(service.remove(keyed | {"Accept": accept}), 404, "NOT_FOUND")
    assert service.balance(ANNA) == 47


def test_the_same_key_after_a_failure_is_a_new_try(service: Service) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    service.fund("anna", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    service.runner.before = broken
    problem(service.remove(keyed), 500, "INTERNAL")
    service.runner.before = lambda: None
    job = service.remove(keyed).raise_for_status().json()
    assert service.remove(keyed).json()["jobId"] == job["jobId"]
    assert service.balance(ANNA) == 47
    poor = bearer("carl") | {"Idempotency-Key": "order-1"}
    problem(service.remove(poor), 402, "INSUFFICIENT_CREDITS")
    service.fund("carl", 3)
    service.remove(poor).raise_for_status()


def test_the_same_key_at_once_is_one_removal(database: Database, tmp_path: Path) -> None:
    place = place_of(database, tmp_path, FakeRunner())
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 50, "grant:anna")

    async def all_at_once() -> list[tuple[Job, bytes]]:
        calls = (removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1") for _ in range(12))
        return await asyncio.gather(*calls)

    outcomes = asyncio.run(all_at_once())
    place.engine.close()
    assert len({job.id for job, _ in outcomes}) == len({data for _, data in outcomes}) == 1
    with database.begin() as session:
        assert credits.balance(session, user.id) == 47
        assert session.query(Job).count() == 1


def test_the_same_key_after_a_crash_is_done_and_charged_once(database: Database, tmp_path: Path) -> None:
    with database.begin() as session:
        user = accounts.seen(session, Claims("anna"))
        credits.grant(session, user.id, 50, "grant:anna")
    crashed, mine = removals._begin(
        place_of(database, tmp_path, FakeRunner(), lease=-1), user.id, photo_bytes(), Options(), "order-1"
    )
    assert mine
    place = place_of(database, tmp_path, FakeRunner())
    job, _ = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1"))
    place.engine.close()
    assert job.id != crashed
    with database.begin() as session:
        assert credits.balance(session, user.id) == 47
        assert credits.discrepancies(session) == {}
    assert removals.settle_lost(database) == 0


def test_a_database_that_goes_away_is_said_and_costs_nothing(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table that a charge needs is not there at the commit; health tells; then all is well again."""
    service.fund("anna", 20)
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        held_until(go_on)

    service.runner.before = wait
    answers: list[httpx2.Response] = []
    caller = threading.Thread(target=lambda: answers.append(service.remove(ANNA)))
    caller.start()
    assert started.wait(20)
    own: Database = service.client.app.state.database  # type: ignore[attr-defined]
    url = own.engine.url
    begin = own.begin
    nowhere = Database("postgresql://nobody@127.0.0.1:9/nothing?connect_timeout=1")
    monkeypatch.setattr(own, "begin", nowhere.begin)
    monkeypatch.setattr(own, "engine", nowhere.engine)
    assert service.get("/api/health", {}).status_code == 503
    assert service.get("/api/health", {}).json()["status"] == "degraded"
    go_on.set()
    caller.join(20)
    problem(answers[0], 503, "DATABASE_UNAVAILABLE")
    problem(service.get(f"{API}/credits", ANNA), 503, "DATABASE_UNAVAILABLE")
    monkeypatch.undo()
    assert own.engine.url == url
    assert own.begin == begin
    with service.database.begin() as session:
        session.execute(text("UPDATE background_removal_jobs SET lease_until = '2020-01-01 00:00:00'"))
    assert removals.settle_lost(service.database) == 1
    assert service.balance(ANNA) == 20
    assert service.get("/api/health", {}).json()["status"] == "ok"


def test_no_secret_reaches_the_log_or_an_answer(capsys: pytest.CaptureFixture[str], service: Service) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    password = "correct horse battery"
    with service.database.begin() as session:
        user = accounts.create_local(session, "owner@shop.example", password)
        key, _ = accounts.create_key(session, user, "laptop")
        credits.grant(session, user.id, 100, "grant:owner")
    token = ANNA["Authorization"].removeprefix("Bearer ")
    answers = [
        service.client.post(
            "/api/auth/login", json={"email": "owner@shop.example", "password": password + "!"}
        ),
        service.client.post("/api/auth/login", json={"email": "owner@shop.example", "password": [password]}),
        service.remove({"X-Api-Key": key}),
        service.remove({"X-Api-Key": key[:-1]}),
        service.remove(ANNA),
        service.remove({"Authorization": f"Bearer {token}x"}),
    ]
    service.runner.before = broken
    answers.append(service.remove({"X-Api-Key": key}))
    assert [answer.status_code for answer in answers] == [401, 400, 200, 401, 402, 401, 500]
    logged = "".join(capsys.readouterr())
    assert "Background removed successfully" in logged
    assert "surprise" in logged, "the log has what the answer does not"
    told = "".join(answer.text for answer in answers)
    assert "surprise" not in told
    for secret in (password, key, key[12:-1], token, SECRET, PLATFORM):
        assert secret not in logged
        assert secret not in told


def test_pictures_of_every_format_are_found_again(service: Service) -> None:
    service.fund("anna", 100)
    for file_format in Format:
        job = service.remove(ANNA, format=file_format.value).raise_for_status().json()
        assert service.get(job["resultUrl"], {}).headers["content-type"] == file_format.media_type
