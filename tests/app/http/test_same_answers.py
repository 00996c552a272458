"""The error in a job's row is the same as in the response to its caller."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.billing import ledger
from cutout.app.core.errors import HUNG_UP, LONGEST_DETAIL, UNEXPECTED, JobFailedError, kinds_by_code
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs.queue import QueueUnavailable
from cutout.app.removals import service as removals
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.storage.base import StorageError
from cutout.inference import errors as engine
from cutout.inference.options import Options
from tests.app.api_client import ANNA, API, ApiClient, place_of
from tests.fakes import FakeRunner, photo_bytes


def kinds(of: type[engine.CutoutError]) -> Iterator[type[engine.CutoutError]]:
    yield of
    for kind in of.__subclasses__():
        if kind.__module__ == engine.__name__:
            yield from kinds(kind)


def made(kind: type[engine.CutoutError]) -> engine.CutoutError:
    if issubclass(kind, engine.Overloaded):
        return kind("Too much waits.", retry_after=7)
    return kind("This is said of it.")


ERRORS: list[Exception] = [
    *map(made, kinds(engine.CutoutError)),
    StorageError("The file cannot be written (No space left on device).", "secret cause"),
    QueueUnavailable("The queue does not answer."),
    JobFailedError("DEADLINE_EXCEEDED", "A worker said so."),
    OperationalError("SELECT secret", {}, Exception("secret host")),
    RuntimeError("secret words"),
    OSError(28, "secret", "/srv/secret"),
    engine.InvalidPhoto("x" * 5000),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_each_error_is_told_alike(shop: ApiClient, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def fail(*_: Any) -> None:
        raise error

    shop.fund("anna", 50)
    monkeypatch.setattr(shop.state.get(RemovalExecutor), "make", fail)
    answer = shop.remove(ANNA)
    told = answer.json()
    (job,) = shop.get(f"{API}/jobs", ANNA).json()["jobs"]
    assert job["status"] == "failed"
    assert job["error"] == {"code": told["code"], "detail": told["detail"]}
    assert kinds_by_code()[told["code"]].status == answer.status_code
    assert "secret" not in str(job["error"])
    assert 0 < len(told["detail"]) <= LONGEST_DETAIL
    assert (told["code"] == "INTERNAL") == (answer.status_code == 500)
    if type(error) in (RuntimeError, OSError):
        assert told["detail"] == UNEXPECTED
    assert shop.balance(ANNA) == 50


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (engine.Overloaded("Too much waits.", retry_after=7), "7"),
        (JobFailedError("OVERLOADED", "A worker said so."), "5"),
        (JobFailedError("STORAGE_UNAVAILABLE", "A worker said so."), "60"),
        (JobFailedError("INVALID_IMAGE", "A worker said so."), None),
    ],
    ids=["here", "overloaded worker", "worker's storage", "bad photo"],
)
def test_a_retry_after_is_sent_from_here_and_from_workers(
    shop: ApiClient, monkeypatch: pytest.MonkeyPatch, error: Exception, seconds: str | None
) -> None:
    async def fail(*_: Any) -> None:
        raise error

    shop.fund("anna", 50)
    monkeypatch.setattr(shop.state.get(RemovalExecutor), "make", fail)
    assert shop.remove(ANNA).headers.get("Retry-After") == seconds


def test_who_hangs_up_finds_it_in_the_job(database: Database, tmp_path: Any) -> None:
    place = place_of(database, tmp_path, FakeRunner())
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 50, "grant:anna")

    async def hang_up() -> None:
        begun = asyncio.Event()

        async def make(*_: Any) -> None:
            begun.set()
            await asyncio.sleep(60)

        place.executor.make = make  # type: ignore[method-assign, assignment]
        call = asyncio.create_task(removals.remove_one(place, user.id, photo_bytes(), Options()))
        await begun.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    asyncio.run(hang_up())
    with database.begin() as session:
        (job,) = session.scalars(select(Job)).all()
        assert (job.status, job.error_code, job.error_detail) == (Status.FAILED, "CANCELLED", HUNG_UP)
        assert ledger.balance(session, user.id) == 50
