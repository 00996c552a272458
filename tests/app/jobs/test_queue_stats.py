"""Queue and workers in health and `/metrics`; a queue that is away hardly delays them."""

import socket
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from cutout.app.db.session import Database
from cutout.app.db.tables import Job, now
from cutout.app.jobs import queue_stats
from cutout.app.jobs.model_status import Served
from cutout.app.jobs.queue import Queue, WorkerInfo
from cutout.app.storage.local import LocalStorage
from cutout.app.system.readiness import Readiness
from cutout.inference.tiers import Recipe, Tier
from tests.app.api_client import ApiClient, opened_shop
from tests.app.http.test_api import problem
from tests.app.observability.test_metrics import figures
from tests.fakes import PATIENCE
from tests.web import callers
from tests.worker.worker_fixtures import small_photos, submitted

pytestmark = pytest.mark.slow

SERVED = Served("isnet-general", "fake", Recipe.MASK, wanted="rmbg-1.4", substitute=True)
WORKER = WorkerInfo("gpu-7-4711", "0.1.0", "cuda", ("interactive", "batch"), {Tier.BASIC: SERVED}, "open")
FIGURES = (
    "cutout_queue_answers",
    "cutout_workers_alive",
    "cutout_batch_photos_waiting",
    "cutout_batches_unfinished",
)


def told(shop: ApiClient) -> tuple[dict[str, object] | None, list[dict[str, object]]]:
    answer = shop.client.get("/api/health").raise_for_status().json()
    assert answer["status"] == "ok"
    return answer["queue"], answer["workers"]


def test_what_waits_and_who_is_alive_is_told(
    database: Database, queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    with opened_shop(database, tmp_path, redis_url=redis_url) as shop:
        assert told(shop) == ({"answers": True, "waiting": 0, "batches": 0}, [])
        submitted(database, LocalStorage(tmp_path), small_photos(7))
        submitted(database, LocalStorage(tmp_path), small_photos(3))
        queue.announce(WORKER)
        state, workers = told(shop)
        assert state == {"answers": True, "waiting": 10, "batches": 2}
        assert workers == [
            {
                "name": "gpu-7-4711",
                "version": "0.1.0",
                "device": "cuda",
                "queues": ["interactive", "batch"],
                "tiers": {"basic": asdict(SERVED)},
                "breaker": "open",
            }
        ]
        seen = figures(shop)
        assert [seen[name] for name in FIGURES] == [1, 1, 10, 2]
        assert (
            seen["cutout_single_photos_waiting"] == seen["cutout_longest_wait_seconds{line=interactive}"] == 0
        )
        with database.begin() as session:
            session.execute(
                update(Job).where(Job.position == 1).values(created_at=now() - timedelta(hours=1))
            )
        assert 3600 <= figures(shop)["cutout_longest_wait_seconds{line=batch}"] < 3600 + PATIENCE
        queue.forget(WORKER)
        assert told(shop)[1] == []
        assert figures(shop)["cutout_workers_alive"] == 0


def test_a_worker_that_says_nothing_more_is_gone(queue: Queue) -> None:
    queue.announce(WORKER)
    assert [worker.name for worker in queue.workers()] == [WORKER.name]
    assert queue.connection is not None
    assert 0 < queue.connection.ttl(f"cutout:worker:{WORKER.name}") <= 30
    queue.connection.delete(f"cutout:worker:{WORKER.name}")
    assert queue.workers() == []
    queue.announce(WORKER)
    assert [worker.name for worker in queue.workers()] == [WORKER.name]


def test_without_a_queue_nothing_is_told_of_one(shop: ApiClient) -> None:
    assert told(shop) == (None, [])
    assert not set(FIGURES) & figures(shop).keys()


def test_a_queue_that_hangs_is_asked_once_and_not_by_everybody(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_stats, "PAUSE_SECONDS", 10 * PATIENCE)
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"redis://127.0.0.1:{hanging.getsockname()[1]}"
        with opened_shop(database, tmp_path, redis_url=url) as shop:
            # The first call reports that the queue hangs; later calls do not wait for it at all.
            assert told(shop) == ({"answers": False, "waiting": 0, "batches": 0}, [])
            assert callers(hanging) > 0
            for _ in range(10):
                assert told(shop) == ({"answers": False, "waiting": 0, "batches": 0}, [])
            seen = figures(shop)
            assert callers(hanging) == 0
            assert seen["cutout_queue_answers"] == 0
            assert "cutout_workers_alive" not in seen


def problems_of(shop: ApiClient) -> list[str]:
    answer = shop.client.get("/api/health")
    return [one["code"] for one in answer.json()["problems"]]


def test_that_photos_wait_and_nobody_takes_them_is_told_by_health_and_log(
    database: Database, queue: Queue, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = 0.0
    with opened_shop(database, tmp_path, redis_url=redis_url) as shop:
        readiness = shop.state.get(Readiness)
        readiness.clock = lambda: at
        assert (told(shop)[1], problems_of(shop)) == ([], [])
        submitted(database, LocalStorage(tmp_path), small_photos(7))
        assert problems_of(shop) == ["NO_WORKER"]
        assert "no worker alive" not in "".join(capsys.readouterr())
        for later in (40.0, 50.0, 200.0):
            at = later
            assert problems_of(shop) == ["NO_WORKER"]
        assert "".join(capsys.readouterr()).count("no worker alive") == 1
        at = 400.0
        assert problems_of(shop) == ["NO_WORKER"]
        assert "7 photos of batches are waiting" in "".join(capsys.readouterr())
        queue.announce(WORKER)
        assert problems_of(shop) == []


def test_where_workers_make_single_photos_health_is_503_without_one(
    database: Database, queue: Queue, redis_url: str, tmp_path: Path
) -> None:
    with opened_shop(database, tmp_path, redis_url=redis_url, api_engine="queue") as shop:
        problem(shop.client.get("/api/health"), 503, "MODEL_UNAVAILABLE")
        queue.announce(WORKER)
        shop.client.get("/api/health").raise_for_status()
    with opened_shop(database, tmp_path, redis_url=f"unix://{tmp_path}/nothing", api_engine="queue") as shop:
        problem(shop.client.get("/api/health"), 503, "QUEUE_UNAVAILABLE")
