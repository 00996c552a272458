"""Clocks that are wrong or are set: no photo of a living worker is taken away, and nothing is deleted by mistake."""

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import select, update

from cutout.app import maintenance
from cutout.app.auth.signed_urls import ServiceSecret, is_signed, sign
from cutout.app.batches import service as batches
from cutout.app.core.clock_watch import ClockWatch
from cutout.app.db import tables
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Channel, Delivery, Job, Status, now
from cutout.app.jobs import leases, thumbnails
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.maintenance import AfterOutages, WhileClockIsSure
from cutout.app.notifications.outbox import claim as claim_deliveries
from cutout.app.ratelimit.limits import Kind, Limit, RateLimited, SharedWindows
from cutout.app.removals import lost_jobs
from cutout.app.storage.local import LocalStorage
from cutout.inference.options import Options
from tests.app.api_client import engine_of, place_of, reserved
from tests.app.databases import new_user, on_both
from tests.fakes import LEASE, FakeRunner, photo_bytes
from tests.faults.clocks import Steady, set_clock
from tests.worker.worker_fixtures import context_of, small_photos, submitted, work_off

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
on_postgresql = pytest.mark.parametrize(
    "database", [pytest.param("postgresql", marks=pytest.mark.slow)], indirect=True
)


@on_postgresql
@pytest.mark.parametrize("wrong", [-HOUR, HOUR], ids=["behind", "ahead"])
@pytest.mark.parametrize("who", ["worker", "service"])
def test_a_host_with_a_wrong_clock_takes_no_photo_from_a_living_worker(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: timedelta, who: str
) -> None:
    """Leases are compared with the database's clock, which all hosts share."""
    storage, queue = LocalStorage(tmp_path), Queue(None)
    batch = submitted(database, storage, small_photos(3))
    with context_of(database, storage, lease=LEASE.total_seconds()) as context:
        with monkeypatch.context() as host:
            if who == "worker":
                set_clock(host, wrong)
            claim = database.run_in_transaction(leases.claim, Line.BATCH, 3, LEASE)
            assert claim is not None
            with context.held.holding(claim.token):
                context.renew()
        with monkeypatch.context() as host:
            if who == "service":
                set_clock(host, wrong)
            assert maintenance.recover_lost_work(database, queue, LEASE) == 0
            assert not database.run_read_only(leases.has_waiting_work, Line.BATCH)
        database.run_in_transaction(leases.release_photos, claim.token, [one.job_id for one in claim.photos])
        if who == "worker":
            set_clock(monkeypatch, wrong)
        work_off(context)
    with database.read() as session:
        assert session.get_one(Batch, batch.id).status is Status.COMPLETED
        assert set(session.scalars(select(Job.attempts))) == {1}


@on_postgresql
def test_a_single_photo_and_a_notification_have_leases_of_the_same_clock(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, user = place_of(database, tmp_path, FakeRunner(), lease=30), new_user(database)
    with database.begin() as session:
        session.execute(update(type(user)).values(balance=0))
    batch = submitted(database, LocalStorage(tmp_path), small_photos(2))
    with database.begin() as session:
        session.add(Delivery(batch_id=batch.id, channel=Channel.WEBHOOK, target="https://shop.example/"))
    with monkeypatch.context() as host:
        set_clock(host, -HOUR)
        there = replace(place, clock=tables.now)
        job_id, _ = reserved(there, batch.user_id, photo_bytes(), Options())
    assert lost_jobs.fail_lost_jobs(database) == 0
    assert len(database.run_in_transaction(claim_deliveries, Channel.WEBHOOK, tables.now, 8)) == 1
    set_clock(monkeypatch, HOUR)
    assert lost_jobs.fail_lost_jobs(database, tables.now) == 0
    assert database.run_in_transaction(claim_deliveries, Channel.WEBHOOK, tables.now, 8) == []
    with database.read() as session:
        assert session.get_one(Job, job_id).status is Status.PROCESSING
    engine_of(place).close()


def test_after_the_databases_clock_was_set_the_living_renew_first(database: Database) -> None:
    clocks, calls = Steady(), list[str]()

    def sweep() -> int:
        calls.append("swept")
        return 1

    watch = ClockWatch(1, clocks)
    work = AfterOutages(sweep, database, LEASE, watch)
    work._database_time = clocks.wall_clock  # type: ignore[method-assign]

    def sweeps() -> int:
        return asyncio.run(work())

    assert sweeps() == 1
    clocks.passes(10)
    assert sweeps() == 1
    for jump in (HOUR, -HOUR):
        clocks.passes(10, jump.total_seconds())
        assert sweeps() == 0
        clocks.passes(20)
        assert sweeps() == 0
        clocks.passes(10)
        assert sweeps() == 1
    assert len(calls) == 4


def test_a_clock_that_runs_is_no_jump_and_one_that_is_read_slowly_is_none() -> None:
    clocks = Steady()
    watch = ClockWatch(60, clocks)

    def slowly() -> float:
        at = clocks.wall
        clocks.passes(300)
        return at

    assert watch.look(clocks.wall_clock) == 0
    clocks.passes(100)
    assert watch.look(slowly) == 0
    clocks.passes(5, jump=59)
    assert watch.look(clocks.wall_clock) == 0
    clocks.passes(5, jump=-61)
    assert watch.look(clocks.wall_clock) == pytest.approx(-61)
    assert not watch.is_steady(10)
    clocks.passes(11)
    assert watch.is_steady(10)


@on_both
def test_nothing_old_is_deleted_while_the_time_is_not_sure(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, clocks = LocalStorage(tmp_path), Steady()
    storage.put("results/new.png", b"paid for")
    watch = ClockWatch(60, clocks)
    delete = WhileClockIsSure(partial(thumbnails.delete_old_results, storage, 7 * DAY), database, watch)
    on_postgresql = database.engine.dialect.name == "postgresql"

    def deletes() -> int:
        return asyncio.run(delete())

    assert deletes() == 0
    with monkeypatch.context() as host:
        set_clock(host, 8 * DAY)
        clocks.passes(3600)
        assert deletes() == 0
        clocks.passes(3600)
        assert deletes() == 0
        assert storage.get("results/new.png") is not None
        clocks.passes(25 * 3600)
        host.setattr(watch, "look", lambda _: 0.0)
        # After a day an embedded service believes its clock; others compare it with the database's.
        assert deletes() == (0 if on_postgresql else 1)
        assert (storage.get("results/new.png") is None) == (not on_postgresql)


@on_both
def test_what_a_clock_put_far_ahead_is_mended_once_it_was_set_back(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = LocalStorage(tmp_path)
    batch = submitted(database, storage, small_photos(2))
    ahead = now() + DAY * 2
    lost = database.run_in_transaction(leases.claim, Line.BATCH, 1, LEASE, ahead)
    living = database.run_in_transaction(leases.claim, Line.BATCH, 1, LEASE)
    assert lost is not None
    assert living is not None
    with database.begin() as session:
        session.execute(update(Batch).values(lease_until=ahead))
        session.add(
            Delivery(batch_id=batch.id, channel=Channel.WEBHOOK, target="https://shop.example/", due_at=ahead)
        )
    assert maintenance.recover_lost_work(database, Queue(None), LEASE) == 0
    with database.read() as session:
        latest = max(session.scalars(select(Job.lease_until)).all(), key=lambda at: at or now())
        assert latest is not None
        assert latest < now() + 2 * LEASE
        assert session.scalars(select(Batch.lease_until)).one() < now() + 2 * LEASE  # type: ignore[operator]
        assert session.scalars(select(Delivery.due_at)).one() <= now() + LEASE  # type: ignore[operator]
    with database.begin() as session:
        assert leases.release_expired(session, now() + 2 * LEASE) == 2


async def _fill(url: str, limit: Limit) -> SharedWindows:
    windows = SharedWindows(url)
    for _ in range(limit.calls):
        assert await windows.take(limit, Kind.REMOVE, "anna") == 0
    return windows


def test_who_called_before_the_clock_was_set_back_waits_for_a_window_at_most(
    database: Database, redis_url: str, queue: Queue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    limit = Limit(2, 60)

    async def calls() -> float:
        with monkeypatch.context() as host:
            set_clock(host, DAY)
            windows = await _fill(redis_url, limit)
        try:
            state = await windows.state(limit, Kind.REMOVE, "anna")
            assert state.seconds <= limit.seconds
            return await windows.take(limit, Kind.REMOVE, "anna")
        finally:
            await windows.close()

    assert 0 < asyncio.run(calls()) <= limit.seconds

    batch = submitted(database, LocalStorage(tmp_path), small_photos(2))
    with database.begin() as session:
        session.execute(update(Batch).values(created_at=now() + DAY))
        batches.require_turn(session, batch.user_id, Limit(1, 3600), now())
        session.execute(update(Batch).values(created_at=now() + timedelta(minutes=1)))
        with pytest.raises(RateLimited) as refused:
            batches.require_turn(session, batch.user_id, Limit(1, 3600), now())
        assert refused.value.retry_after == 3601, "rounded up"


def test_a_signed_url_ends_by_the_clock_that_is_right_now(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = ServiceSecret("secret")
    url = sign(secret, "/zip", DAY)
    path, _, query = url.partition("?")
    fields = dict(one.split("=") for one in query.split("&"))
    expires, signature = int(fields["expires"]), fields["signature"]
    assert expires - time.time() <= DAY.total_seconds() + 1
    for by, is_valid in ((timedelta(0), True), (2 * DAY, False), (-2 * DAY, True)):
        with monkeypatch.context() as host:
            set_clock(host, by)
            assert is_signed(secret, path, expires, signature) is is_valid
