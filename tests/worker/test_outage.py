"""A worker that loses its queue recovers by itself, and meanwhile finishes the photos it has claimed."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rq import Queue as RqQueue
from rq.exceptions import StopRequested

from cutout.app.batches import service as batches
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Status
from cutout.app.embedded import valkey
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.storage.local import LocalStorage
from cutout.worker.rq_worker import RqWorker, listen
from tests.fakes import PATIENCE, wait_until
from tests.worker.test_process import counts, has_ended, worker_log
from tests.worker.worker_fixtures import (
    context_of,
    small_photos,
    submitted,
    worker_environment,
    worker_process,
)

pytestmark = pytest.mark.slow


def started(folder: Path) -> "subprocess.Popen[bytes]":
    server = valkey.start(folder, folder / "socket")
    assert server is not None
    return server


@pytest.mark.timeout(300)
def test_a_queue_may_go_and_come_back_in_every_way(
    database: Database, storage: LocalStorage, tmp_path: Path
) -> None:
    """One worker survives all these outages. Only the test and the worker send wake-up signals: there is no service."""
    folder = tmp_path / "valkey"
    folder.mkdir()
    queue = Queue(f"unix://{folder}/socket")
    assert queue.connection is not None
    database_url = database.engine.url.render_as_string(hide_password=False)
    environment = worker_environment(
        database_url, storage.root, f"unix://{folder}/socket", milliseconds=50, haste=True, lease_seconds=60
    )

    def losses() -> int:
        # The second message is RQ's, while it waits for a wake-up signal.
        told = worker_log(tmp_path)
        return told.count("queue lost") + told.count("could not connect to Redis")

    def comes_true(what: str) -> None:
        """Wait for a condition while the worker is alive."""

        def is_true() -> bool:
            assert process.poll() is None, worker_log(tmp_path)
            return bool(conditions[what]())

        wait_until(is_true, PATIENCE)

    batch: Batch
    before = 0
    conditions: dict[str, Callable[[], object]] = {
        "a worker is alive": queue.workers,
        # On a busy host a worker claims no more than one or two photos at a time.
        "photos are in hand": lambda: counts(database, batch).get(Status.PROCESSING, 0) > 0,
        "none is in hand": lambda: not counts(database, batch).get(Status.PROCESSING),
        "the queue is missed": lambda: losses() > before,
        "the batch has ended": lambda: has_ended(database, batch),
    }

    server = started(folder)
    try:
        with worker_process(tmp_path, environment) as process:
            comes_true("a worker is alive")
            batch = submitted(database, storage, small_photos(30))
            queue.notify_workers(Line.BATCH)
            comes_true("photos are in hand")
            server.kill()
            server.wait()
            comes_true("the queue is missed")
            comes_true("none is in hand")
            assert counts(database, batch)[Status.COMPLETED] > 0, "what was in hand is finished"
            assert not has_ended(database, batch)
            server = started(folder)
            comes_true("the batch has ended")
            assert counts(database, batch) == {Status.COMPLETED: 30}

            # The queue is emptied: the wake-up signal works, but the worker's registration is lost.
            queue.connection.flushall()
            batch = submitted(database, storage, small_photos(2))
            queue.notify_workers(Line.BATCH)
            comes_true("the batch has ended")
            comes_true("a worker is alive")

            # A replica refuses writes; the worker makes up for the lost wake-up signals.
            before = losses()
            queue.connection.replicaof("127.0.0.1", "1")
            batch = submitted(database, storage, small_photos(2))
            assert not queue.notify_workers(Line.BATCH)
            comes_true("the queue is missed")
            queue.connection.replicaof("NO", "ONE")
            comes_true("the batch has ended")

            # A queue without memory left refuses writes too, and has evicted the rest.
            before = losses()
            queue.connection.config_set("maxmemory-policy", "noeviction")
            queue.connection.config_set("maxmemory", 1)
            batch = submitted(database, storage, small_photos(2))
            assert not queue.notify_workers(Line.BATCH)
            comes_true("the queue is missed")
            queue.connection.config_set("maxmemory", 0)
            queue.connection.flushall()
            comes_true("the batch has ended")

            # The queue hangs.
            batch = submitted(database, storage, small_photos(30))
            queue.notify_workers(Line.BATCH)
            comes_true("photos are in hand")
            server.send_signal(signal.SIGSTOP)
            comes_true("none is in hand")
            server.send_signal(signal.SIGCONT)
            comes_true("the batch has ended")

            server.kill()
            server.wait()
            before = losses()
            comes_true("the queue is missed")
            process.terminate()
            assert process.wait(PATIENCE) == 0, worker_log(tmp_path)
    finally:
        server.kill()
        server.wait()
        queue.close()


@pytest.mark.timeout(300)
def test_a_worker_that_is_told_to_stop_while_its_queue_hangs_does(
    database: Database, storage: LocalStorage, tmp_path: Path
) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    queue = Queue(f"unix://{folder}/socket")
    database_url = database.engine.url.render_as_string(hide_password=False)
    environment = worker_environment(
        database_url, storage.root, f"unix://{folder}/socket", milliseconds=50, lease_seconds=60
    )
    server = started(folder)
    try:
        with worker_process(tmp_path, environment) as process:
            batch = submitted(database, storage, small_photos(100))
            queue.notify_workers(Line.BATCH)
            # The worker is in the middle of a job, whose end it has yet to report to the queue.
            wait_until(lambda: counts(database, batch).get(Status.PROCESSING, 0) > 0, PATIENCE)
            server.send_signal(signal.SIGSTOP)
            process.terminate()
            # Each of RQ's calls would wait 25 s, and be tried twice.
            assert process.wait(60) == 0, worker_log(tmp_path)
        with database.read() as session:
            photos = batches.photos_of(session, batch.id)
        assert {photo.claim for photo in photos if photo.status is Status.PENDING} == {None}
    finally:
        server.kill()
        server.wait()
        queue.close()


def test_a_worker_that_starts_before_its_queue_waits_for_it_and_says_so(
    database: Database, storage: LocalStorage, tmp_path: Path
) -> None:
    folder = tmp_path / "valkey"
    folder.mkdir()
    url = f"unix://{folder}/socket"
    queue = Queue(url)
    assert queue.connection is not None
    database_url = database.engine.url.render_as_string(hide_password=False)
    with worker_process(tmp_path, worker_environment(database_url, storage.root, url)) as process:
        said = "The Redis or Valkey server at REDIS_URL does not answer"
        wait_until(lambda: process.poll() is not None or worker_log(tmp_path).count(said) >= 2, PATIENCE)
        assert process.poll() is None, worker_log(tmp_path)
        server = started(folder)
        try:
            wait_until(lambda: process.poll() is not None or bool(queue.workers()), PATIENCE)
            process.terminate()
            assert process.wait(PATIENCE) == 0, worker_log(tmp_path)
        finally:
            server.kill()
            server.wait()
            queue.close()


def tell(_: object) -> int:
    signal.raise_signal(signal.SIGTERM)
    return 1


@pytest.mark.parametrize("moment", [{"subscribe": tell}, {"dequeue_timeout": property(tell)}])
def test_a_signal_that_comes_while_a_worker_begins_is_not_lost(
    database: Database,
    storage: LocalStorage,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: dict[str, object],
) -> None:
    """The signal comes while the worker connects, or between its check for a stop and its wait for a wake-up signal."""
    waits: list[object] = []

    def wait(*args: object, **_: object) -> None:
        waits.append(args)
        raise StopRequested

    monkeypatch.setattr(RqQueue, "dequeue_any", wait)
    for name, instead in moment.items():
        monkeypatch.setattr(RqWorker, name, instead)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with context_of(database, storage, redis_url) as context:
            listen(context, [Line.BATCH], redis_url, f"worker-{next(iter(moment))}", lambda: None)
            assert context.stopping.is_set()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert waits == []
