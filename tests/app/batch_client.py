"""A service with accounts and a batch queue, and its workers, for tests."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cutout.app.db.session import Database
from cutout.app.jobs.leases import Line
from cutout.app.storage.local import LocalStorage
from cutout.worker import tasks as worker_jobs
from tests.app.api_client import API, ApiClient, opened_shop
from tests.fakes import PATIENCE, FakeRunner, files_below, photo_bytes
from tests.worker.worker_fixtures import context_of, work_off

BATCH = f"{API}/batch"
File = tuple[str, bytes]


def photos(count: int) -> list[File]:
    """Return `count` different photos."""
    return [(f"photo-{seed}.png", photo_bytes(8, 6, seed=seed)) for seed in range(count)]


class BatchClient(ApiClient):
    """A service with a queue, whose files are in `storage`."""

    storage: LocalStorage

    def hand_in(self, who: dict[str, str], files: Sequence[File], **fields: str) -> httpx2.Response:
        """Submit a batch; return the response."""
        sent: list[Any] = [("images", (name, data, "image/png")) for name, data in files]
        sent += [(name, (None, value)) for name, value in fields.items()]
        answer: httpx2.Response = self.client.post(BATCH, files=sent, headers=who)
        return answer

    def accepted(self, who: dict[str, str], files: Sequence[File], **fields: str) -> str:
        """Submit a valid batch; return its id."""
        answer = self.hand_in(who, files, **fields)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["batchId"])

    def batch(self, who: dict[str, str], batch_id: str) -> dict[str, Any]:
        shown: dict[str, Any] = self.get(f"{BATCH}/{batch_id}", who).raise_for_status().json()
        return shown

    def work_off(self, runner: FakeRunner | None = None) -> None:
        """Process all waiting work, as workers do."""
        with context_of(self.database, self.storage, runner=runner) as context:
            work_off(context)

    def kept(self, folder: str = "uploads") -> list[Path]:
        """Return the stored files in one of the folders."""
        return files_below(self.storage.root / folder)


@contextmanager
def opened_studio(
    database: Database, folder: Path, redis_url: str | None, **changes: object
) -> Iterator[BatchClient]:
    """Open a studio; `changes` override its settings."""
    chosen: dict[str, object] = {
        "redis_url": redis_url,
        "batch_per_hour": 0,
        "batch_attempts_per_hour": 0,
        **changes,
    }
    with opened_shop(database, folder, **chosen) as shop:
        studio = BatchClient(shop.client, shop.database, shop.runner)
        studio.storage = LocalStorage(folder / "data")
        yield studio


@pytest.fixture
def studio(database: Database, tmp_path: Path, redis_url: str) -> Iterator[BatchClient]:
    with opened_studio(database, tmp_path, redis_url) as studio:
        yield studio


@contextmanager
def at_work(database: Database, storage: LocalStorage, runner: FakeRunner | None = None) -> Iterator[None]:
    """Run a worker in a thread that looks for batches repeatedly."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(0.01):
            worker_jobs.process_line(context, Line.BATCH)

    with context_of(database, storage, runner=runner) as context:
        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(PATIENCE)
            assert not thread.is_alive()
