"""Requests with the same `Idempotency-Key` are one removal, whatever happens to the first request."""

import asyncio
from pathlib import Path

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import Job
from cutout.app.removals import lost_jobs
from cutout.app.removals import service as removals
from cutout.app.removals.remote import RemotePhoto
from cutout.inference.options import Options
from tests.app.api_client import ANNA, BEN, ApiClient, bearer, engine_of, place_of, reserved
from tests.app.databases import on_both
from tests.app.http.test_api import problem
from tests.fakes import FakeRunner, photo_bytes


@on_both
def test_the_same_key_is_one_removal(shop: ApiClient) -> None:
    shop.fund("anna", 50)
    shop.fund("ben", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    first, second = (shop.remove(keyed).raise_for_status().json() for _ in range(2))
    assert first["jobId"] == second["jobId"]
    picture = shop.remove(keyed | {"Accept": "image/png"})
    assert picture.content == shop.get(first["resultUrl"], {}).content
    assert picture.headers["x-cutout-model"] == "isnet-general"
    assert shop.balance(ANNA) == 47
    for other in (shop.remove(keyed, photo_bytes(seed=1)), shop.remove(keyed, tier="standard")):
        problem(other, 409, "CONFLICT")
    assert shop.balance(ANNA) == 47
    others = shop.remove(BEN | {"Idempotency-Key": "order-1"}).raise_for_status().json()
    assert others["jobId"] != first["jobId"]
    problem(shop.remove(ANNA | {"Idempotency-Key": "k" * 256}), 400, "INVALID_INPUT")


@on_both
def test_a_picture_that_is_gone_is_said_and_not_sold_again(shop: ApiClient, tmp_path: Path) -> None:
    shop.fund("anna", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    shop.remove(keyed).raise_for_status()
    for file in (tmp_path / "data/results").iterdir():
        file.unlink()
    for accept in ("image/png", "application/json"):
        problem(shop.remove(keyed | {"Accept": accept}), 404, "NOT_FOUND")
    assert shop.balance(ANNA) == 47


@on_both
def test_the_same_key_after_a_failure_is_a_new_try(shop: ApiClient) -> None:
    def broken() -> None:
        raise ValueError("surprise")

    shop.fund("anna", 50)
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    shop.runner.before = broken
    problem(shop.remove(keyed), 500, "INTERNAL")
    shop.runner.before = lambda: None
    job = shop.remove(keyed).raise_for_status().json()
    assert shop.remove(keyed).json()["jobId"] == job["jobId"]
    assert shop.balance(ANNA) == 47
    poor = bearer("carl") | {"Idempotency-Key": "order-1"}
    problem(shop.remove(poor), 402, "INSUFFICIENT_CREDITS")
    shop.fund("carl", 3)
    shop.remove(poor).raise_for_status()


@on_both
def test_the_same_key_at_once_is_one_removal(database: Database, tmp_path: Path) -> None:
    place = place_of(database, tmp_path, FakeRunner())
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 50, "grant:anna")

    async def all_at_once() -> list[tuple[Job, bytes]]:
        calls = (removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1") for _ in range(12))
        return await asyncio.gather(*calls)

    outcomes = asyncio.run(all_at_once())
    engine_of(place).close()
    assert len({job.id for job, _ in outcomes}) == len({data for _, data in outcomes}) == 1
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 47
        assert session.query(Job).count() == 1


@on_both
def test_the_same_key_at_once_for_a_photo_elsewhere_is_one_removal(
    database: Database, tmp_path: Path
) -> None:
    place = place_of(database, tmp_path, FakeRunner())
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 50, "grant:anna")
    versions = iter(range(100))

    async def fetch(url: str) -> bytes:
        return photo_bytes(seed=next(versions))

    async def all_at_once() -> list[tuple[Job, bytes]]:
        photo = RemotePhoto("https://pictures.example/photo.png", fetch)
        calls = (removals.remove_one(place, user.id, photo, Options(), "order-1") for _ in range(6))
        return await asyncio.gather(*calls)

    outcomes = asyncio.run(all_at_once())
    engine_of(place).close()
    assert len({job.id for job, _ in outcomes}) == len({data for _, data in outcomes}) == 1
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 47


@on_both
def test_the_same_key_after_a_crash_is_done_and_charged_once(database: Database, tmp_path: Path) -> None:
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 50, "grant:anna")
    crashed, mine = reserved(
        place_of(database, tmp_path, FakeRunner(), lease=-1), user.id, photo_bytes(), Options(), "order-1"
    )
    assert mine
    place = place_of(database, tmp_path, FakeRunner())
    job, _ = asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1"))
    engine_of(place).close()
    assert job.id != crashed
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 47
        assert ledger.discrepancies(session) == {}
    assert lost_jobs.fail_lost_jobs(database) == 0
