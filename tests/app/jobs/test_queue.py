"""The queue: reports when a wake-up signal cannot be sent, and about workers of another version."""

import json
from pathlib import Path

import pytest

from cutout.app.jobs.queue import WORKER_KEY, WORKERS, Queue, QueueUnavailable, WorkerInfo
from tests.app.databases import valkey_at

WORKER = WorkerInfo("one", "0.1", "cpu", ("batch",), {})


def test_a_queue_that_answers_but_takes_nothing_is_away(tmp_path: Path) -> None:
    """A queue that is full, is a replica, or has no disk space still answers a PING."""
    with valkey_at(tmp_path) as server:
        queue = Queue(f"unix://{server.unix_socket_path}")
        queue.require()
        queue.announce(WORKER)
        assert queue.connection is not None
        queue.connection.config_set("maxmemory", "1")
        assert queue.connection.ping()
        with pytest.raises(QueueUnavailable, match="try again"):
            queue.require()
        queue.connection.config_set("maxmemory", "0")
        queue.require()
        queue.connection.replicaof("127.0.0.1", "1")
        with pytest.raises(QueueUnavailable, match="try again"):
            queue.require()
        queue.close()


def test_a_worker_of_another_version_hides_no_other(redis_url: str) -> None:
    queue = Queue(redis_url)
    assert queue.connection is not None
    queue.connection.flushdb()
    queue.announce(WORKER)
    queue.connection.sadd(WORKERS, "two")
    queue.connection.set(WORKER_KEY + "two", json.dumps({"name": "two", "speaks": "otherwise"}))
    assert queue.workers() == [WORKER]
    queue.connection.flushdb()
    queue.close()
