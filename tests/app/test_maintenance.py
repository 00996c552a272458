"""Periodic maintenance goes on, whichever part of it fails."""

import asyncio
import os
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from rq import Queue as RqQueue
from sqlalchemy import select, text, update
from sqlalchemy.orm import Session

from cutout.app import maintenance
from cutout.app.auth import accounts
from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.auth.tokens import Claims
from cutout.app.batches import service as batches
from cutout.app.billing import ledger
from cutout.app.core import log_config
from cutout.app.core.threads import to_the_end
from cutout.app.db import advisory_locks
from cutout.app.db.session import Database
from cutout.app.db.tables import IdempotencyKey, Job, Status, now
from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.net.safe_http import SafeHttpClient
from cutout.app.net.url_policy import UrlPolicy
from cutout.app.notifications.outbox import Outbox
from cutout.app.storage.base import StorageError
from cutout.app.storage.local import LocalStorage
from cutout.app.stores.service import ResultStores
from cutout.inference.options import Options
from tests.app.api_client import engine_of, place_of, reserved
from tests.app.databases import on_both
from tests.fakes import LEASE, PATIENCE, FakeRunner, held_until, photo_bytes


class FailsAtFirst(LocalStorage):
    """Storage that cannot be reached at first, then fails with an unexpected error, then works."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.failures: list[Exception] = [ValueError("surprise"), StorageError("away", "the host's reason")]

    def delete_older_than(self, age: timedelta, prefix: str) -> int:
        if self.failures:
            raise self.failures.pop()
        return super().delete_older_than(age, prefix)


@on_both
def test_old_things_go_and_lost_ones_are_settled_although_some_of_it_fails(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log_config.configure("console")
    for interval in ("SETTLE_EVERY", "DELETE_EVERY"):
        monkeypatch.setattr(maintenance, interval, timedelta(milliseconds=20))
    monkeypatch.setattr(maintenance, "DELETE_FIRST", timedelta(0))
    storage = FailsAtFirst(tmp_path)
    storage.put("results/old.png", b"old")
    storage.put("uploads/nobodys", b"old")
    storage.put("originals/old", b"old")
    for old in ("results/old.png", "uploads/nobodys", "originals/old"):
        os.utime(tmp_path / old, (0, 0))
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 6, "grant:anna")
    for key in ("old", "new"):
        reserved(place, user.id, photo_bytes(), Options(), key)
    with database.begin() as session:
        session.execute(
            text("UPDATE idempotency_keys SET created_at = '2020-01-01 00:00:00' WHERE key = 'old'")
        )

    def left(session: Session) -> tuple[set[Status], list[str]]:
        return set(session.scalars(select(Job.status))), list(session.scalars(select(IdempotencyKey.key)))

    async def sweep() -> None:
        day = timedelta(days=1)
        client = SafeHttpClient(UrlPolicy())
        outbox = Outbox(database, client, ServiceSecret("secret"), day)
        stores = ResultStores(database, storage, client)
        queue = Queue(None)
        async with maintenance.running_maintenance(
            database, storage, queue, outbox, stores, kept=day, lease=day, deadline=day
        ):
            async with asyncio.timeout(PATIENCE):
                while any(
                    storage.list_older_than(timedelta(days=1), folder)
                    for folder in ("results/", "uploads/", "originals/")
                ) or database.run_read_only(left) != ({Status.FAILED}, ["new"]):
                    await asyncio.sleep(0.01)

    asyncio.run(sweep())
    with database.read() as session:
        assert ledger.balance(session, user.id) == 6
    told = "".join(capsys.readouterr())
    assert "the host's reason" in told
    assert "surprise" in told
    engine_of(place).close()


def wake_ups(queue: Queue, line: Line = Line.BATCH) -> int:
    return RqQueue(line.value, connection=queue.connection).count


def batch_of(database: Database, photos: int) -> uuid.UUID:
    """Submit a batch without sending a wake-up signal."""
    with database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("anna"))
        ledger.grant(session, user.id, 1000, f"grant:{uuid.uuid4()}")
    of_it = [batches.StoredPhoto(uuid.uuid4(), f"{number}.png", "0" * 64) for number in range(photos)]
    batch, _ = batches.submit(database, user.id, uuid.uuid4(), of_it, batches.BatchRequest(Options()), now())
    return batch.id


@on_both
def test_a_bell_that_was_lost_is_rung_again(database: Database, queue: Queue) -> None:
    assert maintenance.recover_lost_work(database, queue, LEASE) == 0
    assert wake_ups(queue) == 0
    batch_of(database, 10)
    for _ in range(2):
        assert maintenance.recover_lost_work(database, queue, LEASE) == 0
        assert wake_ups(queue) == 1
    assert wake_ups(queue, Line.INTERACTIVE) == 0
    assert queue.connection is not None
    queue.connection.flushdb()
    maintenance.recover_lost_work(database, queue, LEASE)
    assert wake_ups(queue) == 1


@on_both
def test_what_a_lost_worker_had_is_freed_and_rung_for(database: Database, queue: Queue) -> None:
    batch_of(database, 10)
    lease = timedelta(seconds=30)
    lost = database.run_in_transaction(leases.claim, Line.BATCH, 10, lease, now() - 2 * lease)
    assert lost is not None
    assert len(lost.photos) == 10
    assert not database.run_read_only(leases.has_waiting_work, Line.BATCH, now())
    assert maintenance.recover_lost_work(database, queue, LEASE) == 10
    assert wake_ups(queue) == 1
    assert maintenance.recover_lost_work(database, queue, LEASE) == 0


@on_both
def test_a_batch_that_only_has_to_be_ended_is_rung_for(database: Database, queue: Queue) -> None:
    batch_id = batch_of(database, 10)
    with database.begin() as session:
        session.execute(update(Job).where(Job.batch_id == batch_id).values(status=Status.FAILED))
    maintenance.recover_lost_work(database, queue, LEASE)
    assert wake_ups(queue) == 1


@on_both
def test_what_is_lost_is_freed_also_where_the_queue_is_away(database: Database, tmp_path: Path) -> None:
    batch_of(database, 10)
    lease = timedelta(seconds=30)
    database.run_in_transaction(leases.claim, Line.BATCH, 10, lease, now() - 2 * lease)
    assert maintenance.recover_lost_work(database, Queue(f"unix://{tmp_path}/nothing"), LEASE) == 10


@on_both
def test_one_host_at_a_time_looks(database: Database, queue: Queue) -> None:
    """Only one host at a time runs the task on PostgreSQL; on SQLite the others wait for their turn."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer")
    batch_of(database, 10)
    with ThreadPoolExecutor(1) as another, database.begin() as session:
        assert advisory_locks.try_take(session, advisory_locks.SWEEPER)
        assert another.submit(maintenance.recover_lost_work, database, queue, LEASE).result(60) == 0
        assert wake_ups(queue) == 0
    maintenance.recover_lost_work(database, queue, LEASE)
    assert wake_ups(queue) == 1


@pytest.mark.parametrize(("lease", "seconds"), [(0.2, 0.5), (2, 1), (30, 10)])
def test_short_leases_are_looked_at_often(lease: float, seconds: float) -> None:
    assert maintenance.check_interval(timedelta(seconds=lease)) == timedelta(seconds=seconds)


def test_what_is_being_done_at_the_end_is_done_first() -> None:
    begun, over, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        held_until(over)
        done.set()
        raise ValueError("too late to matter")

    async def cut_off() -> None:
        task = asyncio.create_task(to_the_end(work))
        await asyncio.to_thread(held_until, begun)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        over.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert done.is_set()

    asyncio.run(cut_off())
    with pytest.raises(ValueError, match="too late"):
        asyncio.run(to_the_end(work))
