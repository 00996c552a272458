"""Two or more services and workers at once on one database and one folder: each thing is done once."""

import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from sqlalchemy import func, select

from cutout.app import maintenance
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Delivery, Job, LedgerEntry, Status, now
from cutout.app.jobs import leases, thumbnails, upload_cleanup
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.removals import lost_jobs
from cutout.app.storage.local import LocalStorage
from cutout.inference.options import Options
from tests.app.api_client import engine_of, place_of, reserved
from tests.app.databases import on_both
from tests.fakes import PATIENCE, FakeRunner, photo_bytes
from tests.worker.worker_fixtures import context_of, small_photos, submitted, work_off

SEVERAL = 4
LEASE = timedelta(seconds=30)
Result = TypeVar("Result")


def at_once(work: Callable[[], Result]) -> list[Result]:
    """Do the same on several hosts at the same moment."""
    together = threading.Barrier(SEVERAL)

    def one(_: int) -> Result:
        together.wait(PATIENCE)
        return work()

    with ThreadPoolExecutor(SEVERAL) as hosts:
        return list(hosts.map(one, range(SEVERAL)))


@on_both
def test_what_is_lost_is_settled_by_one_of_them(database: Database, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    batch = submitted(database, storage, small_photos(10))
    long_ago = now() - 2 * LEASE
    database.run_in_transaction(leases.claim, Line.BATCH, 10, LEASE, long_ago)
    place = place_of(database, tmp_path, FakeRunner(), lease=-1)
    for _ in range(5):
        reserved(place, batch.user_id, photo_bytes(), Options())
    with database.read() as session:
        before = ledger.balance(session, batch.user_id)
    assert sum(at_once(partial(maintenance.recover_lost_work, database, Queue(None), LEASE))) == 10
    assert sum(at_once(partial(lost_jobs.fail_lost_jobs, database))) == 5
    with database.read() as session:
        assert ledger.balance(session, batch.user_id) == before + 5 * 3
        assert ledger.discrepancies(session) == {}
        tried = select(Job.attempts).where(Job.batch_id == batch.id)
        assert Counter(session.scalars(tried)) == {1: 10}
    engine_of(place).close()


@on_both
def test_old_files_are_deleted_by_all_of_them_without_an_error(database: Database, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path / "files")
    for number in range(60):
        for key in (f"results/{number}.png", f"uploads/{number}/a"):
            storage.put(key, b"old")
            os.utime(storage.root / key, (0, 0))
    storage.put("results/new.png", b"new")
    at_once(partial(thumbnails.delete_old_results, storage, timedelta(days=1)))
    at_once(partial(upload_cleanup.forget_uploads, database, storage, timedelta(days=1)))
    assert storage.list_older_than(timedelta(seconds=-5), "") == ["results/new.png"]


def test_a_file_that_another_deletes_while_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, is_file = LocalStorage(tmp_path), Path.is_file
    for key in ("results/a", "results/b"):
        storage.put(key, b"x")

    def and_gone(file: Path) -> bool:
        found = is_file(file)
        if file.name == "b":
            file.unlink()
        return found

    monkeypatch.setattr(Path, "is_file", and_gone)
    assert storage.list_older_than(timedelta(seconds=-5), "results/") == ["results/a"]


def test_a_folder_that_another_deletes_before_it_is_looked_at_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, is_file = LocalStorage(tmp_path), Path.is_file
    for key in ("uploads/a/1", "uploads/b/1"):
        storage.put(key, b"x")

    def and_the_other_folder_gone(file: Path) -> bool:
        found = is_file(file)
        if found:
            shutil.rmtree(tmp_path / "uploads" / ("b" if file.parent.name == "a" else "a"))
        return found

    monkeypatch.setattr(Path, "is_file", and_the_other_folder_gone)
    assert len(storage.list_older_than(timedelta(seconds=-5), "uploads/")) == 1


@on_both
def test_a_batch_that_several_workers_take_is_made_charged_and_announced_once(
    database: Database, tmp_path: Path
) -> None:
    storage, made = LocalStorage(tmp_path), Counter[str]()
    batch = submitted(database, storage, small_photos(12), webhook_url="https://shop.example/")
    with database.read() as session:
        before = ledger.balance(session, batch.user_id)
    runner = FakeRunner(lambda: made.update(["batch of photos"]))

    def work() -> None:
        with context_of(database, storage, runner=runner) as context:
            work_off(context)

    at_once(work)
    with database.read() as session:
        ended = session.get_one(Batch, batch.id)
        assert (ended.status, ended.charged) == (Status.COMPLETED, ended.credits)
        assert set(session.scalars(select(Job.status))) == {Status.COMPLETED}
        assert set(session.scalars(select(Job.attempts))) == {1}
        assert session.scalar(select(func.count()).select_from(Delivery)) == 1
        assert ledger.balance(session, batch.user_id) == before
        movements = select(LedgerEntry.movement, func.sum(LedgerEntry.credits)).group_by(LedgerEntry.movement)
        assert len(session.execute(movements).all()) == 3, "a grant, a hold and a charge"
    assert sum(made.values()) <= 12
    assert len(list((tmp_path / "results").glob("*.png"))) == 12
    assert storage.list_older_than(timedelta(seconds=-5), "uploads/") == []
