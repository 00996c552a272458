"""Leases of photos whose callers wait: renewed while the process lives, and short enough when it dies."""

import asyncio
import threading
import uuid
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import update
from sqlalchemy.exc import OperationalError

from cutout.app import maintenance
from cutout.app.billing import ledger
from cutout.app.db.outages import DatabaseUnavailable, Hangs
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, User, now
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.lease_renewal import renewing
from cutout.app.removals import lost_jobs, request
from cutout.app.removals import service as removals
from cutout.app.removals.idempotency import KeyInWork
from cutout.app.removals.request import RemovalContext
from cutout.inference.errors import NetworkFailed
from cutout.inference.options import Options
from tests.app.api_client import ANNA, ApiClient, engine_of, place_of, reserved
from tests.app.databases import new_user, on_both
from tests.app.http.test_api import problem
from tests.fakes import FakeRunner, held_until, photo_bytes, wait_until

LEASE = timedelta(seconds=60)
NO_WAIT = timedelta(0)


def funded(database: Database) -> User:
    user = new_user(database)
    with database.begin() as session:
        ledger.grant(session, user.id, 50, "grant")
    return user


def begun(place: RemovalContext, user: User) -> uuid.UUID:
    """Write a job and do nothing more, as if its process had died."""
    job_id, mine = reserved(place, user.id, photo_bytes(), Options(), "order-1")
    assert mine
    return job_id


def lease_of(database: Database, user: User, job_id: uuid.UUID) -> datetime:
    job = jobs.find(database, user.id, job_id)
    assert job is not None
    assert job.lease_until is not None
    return job.lease_until


def balance(database: Database, user: User) -> int:
    with database.begin() as session:
        assert ledger.discrepancies(session) == {}
        return ledger.balance(session, user.id)


@on_both
def test_a_repetition_while_the_first_is_in_work_is_told_so(
    shop: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request, "PATIENCE", NO_WAIT)
    shop.fund("anna", 50)
    started, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        held_until(go_on, 60)

    shop.runner.before = wait
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    first = threading.Thread(target=shop.remove, args=[keyed])
    first.start()
    assert started.wait(60)
    again = shop.remove(keyed)
    problem(again, 409, "CONFLICT")
    assert 1 <= int(again.headers["Retry-After"]) <= 5
    go_on.set()
    first.join(60)
    shop.remove(keyed).raise_for_status()
    assert shop.balance(ANNA) == 47


@on_both
def test_after_a_crash_a_key_is_taken_for_a_lease_and_no_longer(database: Database, tmp_path: Path) -> None:
    user, later = funded(database), timedelta(0)
    lost = begun(place_of(database, tmp_path, FakeRunner(), lease=30), user)
    crashed = place_of(database, tmp_path, FakeRunner(), lease=30)
    place = RemovalContext(
        crashed.executor,
        crashed.storage,
        database,
        crashed.lease,
        clock=lambda: now() + later,
        patience=NO_WAIT,
    )

    def again() -> uuid.UUID:
        return asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options(), "order-1"))[0].id

    with pytest.raises(KeyInWork) as told:
        again()
    assert told.value.retry_after == 5
    later = timedelta(seconds=29)
    with pytest.raises(KeyInWork) as told:
        again()
    assert told.value.retry_after in (1, 2)
    later = timedelta(seconds=31)
    assert again() != lost
    engine_of(place).close()
    assert balance(database, user) == 47


@on_both
def test_what_is_in_work_here_is_renewed_and_never_lost(database: Database, tmp_path: Path) -> None:
    user = funded(database)
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    job_id = begun(place, user)
    with place.leases.holding(job_id):
        # Its lease has expired, as after an outage of the database, but this process knows that the job is running.
        assert lost_jobs.fail_lost_jobs(database, leases=place.leases) == 0
        assert reserved(place, user.id, photo_bytes(), Options(), "order-1") == (job_id, False)
        place.leases.renew(database, LEASE, now())
        assert lost_jobs.fail_lost_jobs(database) == 0
    assert lost_jobs.fail_lost_jobs(database, lambda: now() + LEASE, place.leases) == 1
    assert balance(database, user) == 50
    engine_of(place).close()


def test_renewals_go_on_after_an_outage(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = funded(database)
    place = place_of(database, tmp_path, FakeRunner(), lease=1)
    job_id = begun(place, user)
    failed: list[OperationalError] = []

    def away() -> None:
        failed.append(DatabaseUnavailable(Hangs()))
        raise failed[-1]

    monkeypatch.setattr(database, "begin", away)
    with place.leases.holding(job_id), renewing(place.leases, database, timedelta(seconds=3)):
        wait_until(lambda: len(failed) >= 2, 60)
        monkeypatch.undo()
        before = lease_of(database, user, job_id)
        wait_until(lambda: lease_of(database, user, job_id) > before + timedelta(seconds=1), 60)
        before = lease_of(database, user, job_id)
        wait_until(lambda: lease_of(database, user, job_id) > before, 60)
    engine_of(place).close()


@on_both
def test_what_could_not_be_given_back_is_when_the_database_answers_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = funded(database)
    place = place_of(database, tmp_path, FakeRunner())
    job_id = begun(place, user)

    def away() -> None:
        raise DatabaseUnavailable(Hangs())

    with monkeypatch.context() as outage:
        outage.setattr(database, "begin", away)
        removals.abandon_job(place, job_id, NetworkFailed("A surprise."))
        with pytest.raises(OperationalError):
            place.leases.renew(database, LEASE, now())
    assert balance(database, user) == 47
    with renewing(place.leases, database, timedelta(hours=1)):
        wait_until(lambda: balance(database, user) == 50, 60)
    job = jobs.find(database, user.id, job_id)
    assert job is not None
    assert (job.status, job.error_detail) == (Status.FAILED, "A surprise.")
    engine_of(place).close()


def test_after_an_outage_the_living_renew_before_anybody_is_taken_for_lost(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def look() -> int:
        looked.append("looked")
        return database.run_in_transaction(lambda _: 3)

    work = maintenance.AfterOutages(look, database, LEASE)

    def away() -> None:
        raise DatabaseUnavailable(Hangs())

    assert asyncio.run(work()) == 3
    with monkeypatch.context() as outage:
        outage.setattr(database, "begin", away)
        outage.setattr(database, "read", away)
        for _ in range(2):
            with pytest.raises(OperationalError):
                asyncio.run(work())
    looked.clear()
    assert asyncio.run(work()) == 0
    assert looked == []
    assert asyncio.run(work()) == 3


@on_both
def test_what_others_end_is_not_renewed(database: Database, tmp_path: Path) -> None:
    user = funded(database)
    place = place_of(database, tmp_path, FakeRunner())
    job_id = begun(place, user)
    with database.begin() as session:
        session.execute(update(Job).where(Job.id == job_id).values(status=Status.FAILED, lease_until=None))
    with place.leases.holding(job_id):
        place.leases.renew(database, LEASE, now())
    job = jobs.find(database, user.id, job_id)
    assert job is not None
    assert job.lease_until is None
    engine_of(place).close()
