"""Valkey that is emptied, evicts what it holds, or is full: only wake-up signals and counts of calls are in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from cutout.app import maintenance
from cutout.app.db.session import Database
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue, WorkerInfo
from cutout.worker.tasks import process_line
from tests.app.api_client import ANNA
from tests.app.batch_client import BatchClient, opened_studio, photos
from tests.app.databases import valkey_at
from tests.app.http.test_api import problem
from tests.fakes import LEASE, wait_until
from tests.worker.worker_fixtures import context_of

pytestmark = pytest.mark.slow
FUNDS = 300
WORKER = WorkerInfo("worker", "1", "cpu", ("batch",), {})


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey of its own, whose memory may be limited."""
    with valkey_at(tmp_path_factory.mktemp("valkey")) as server:
        yield f"unix://{server.unix_socket_path}"


@pytest.fixture
def valkey(url: str) -> Iterator["Redis"]:
    with Redis.from_url(url) as valkey:
        valkey.flushall()
        yield valkey
        valkey.config_set("maxmemory", 0)


@pytest.fixture
def studio(database: Database, tmp_path: Path, url: str) -> Iterator[BatchClient]:
    with opened_studio(database, tmp_path, url, remove_per_minute=2) as studio:
        studio.fund("anna", FUNDS)
        yield studio


def work(studio: BatchClient, url: str, batch_id: str) -> None:
    """Work as an idle worker does: only on a wake-up signal."""
    queue = Queue(url)
    assert queue.connection is not None
    with context_of(studio.database, studio.storage, url) as context:

        def has_ended() -> bool:
            if queue.connection is not None and queue.connection.lpop("rq:queue:batch"):
                process_line(context, Line.BATCH)
            return bool(studio.batch(ANNA, batch_id)["status"] == "completed")

        wait_until(has_ended)
    queue.close()


def test_a_valkey_that_is_emptied_in_a_batch_delays_it_and_no_more(
    studio: BatchClient, valkey: "Redis", url: str
) -> None:
    batch_id = studio.accepted(ANNA, photos(4))
    with context_of(studio.database, studio.storage, url) as context:
        context.queue.announce(WORKER)
        process_line(context, Line.BATCH)  # one photo; the signal for the next is sent
        valkey.flushall()
        assert context.queue.workers() == []
        context.queue.announce(WORKER)  # as it does every 10 s
        assert [worker.name for worker in context.queue.workers()] == ["worker"]
        maintenance.recover_lost_work(studio.database, context.queue, LEASE)
    work(studio, url, batch_id)
    assert studio.balance(ANNA) == FUNDS - 4 * 3


def test_a_full_valkey_refuses_batches_and_hosts_count_calls_themselves(
    studio: BatchClient, valkey: "Redis", url: str
) -> None:
    batch_id = studio.accepted(ANNA, photos(2))
    valkey.config_set("maxmemory-policy", "noeviction")
    valkey.config_set("maxmemory", 1)
    problem(studio.hand_in(ANNA, photos(2)), 503, "QUEUE_UNAVAILABLE")
    assert studio.kept("uploads") == studio.kept("uploads")[:2], "those of the first batch"
    for _ in range(2):
        studio.remove(ANNA).raise_for_status()
    problem(studio.remove(ANNA), 429, "RATE_LIMITED")
    assert studio.client.get("/api/health").status_code == 200
    valkey.config_set("maxmemory", 0)
    maintenance.recover_lost_work(studio.database, Queue(url), LEASE)
    work(studio, url, batch_id)
    studio.accepted(ANNA, photos(2))
    assert studio.balance(ANNA) == FUNDS - 4 * 3 - 2 * 3


def test_a_valkey_that_evicts_loses_signals_that_are_sent_again(
    studio: BatchClient, valkey: "Redis", url: str
) -> None:
    batch_id = studio.accepted(ANNA, photos(3))
    valkey.config_set("maxmemory-policy", "allkeys-random")
    valkey.config_set("maxmemory", int(valkey.info("memory")["used_memory"]) + 200_000)
    number = 0
    while valkey.exists("rq:queue:batch"):
        try:
            valkey.set(f"filling:{number}", b"x" * 10_000)
        except ResponseError:  # nothing is left to evict
            break
        number += 1
    assert not valkey.exists("rq:queue:batch")
    studio.remove(ANNA).raise_for_status()
    valkey.config_set("maxmemory", 0)
    maintenance.recover_lost_work(studio.database, Queue(url), LEASE)
    work(studio, url, batch_id)
    assert studio.balance(ANNA) == FUNDS - 3 * 3 - 3
