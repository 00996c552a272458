"""A disk that fills up at any step, with the database, the files and the queue on it: all goes on once there is room."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from cutout.app import maintenance
from cutout.app.config.settings import DATABASE_FILE
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.embedded import valkey
from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue, QueueUnavailable
from cutout.app.storage.base import StorageError
from cutout.worker.tasks import end_batches, process_claim, process_line
from tests.app.api_client import ANNA, API
from tests.app.batch_client import BatchClient, opened_studio, photos
from tests.disks import fill, small_disk
from tests.fakes import LEASE, PATIENCE, files_below, wait_until
from tests.worker.worker_fixtures import context_of

pytestmark = pytest.mark.slow
FUNDS = 100


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 4) as disk:
        yield disk


@pytest.fixture
def studio(
    disk: Path, migrated_file: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BatchClient]:
    """A service whose database and files are on the small disk."""
    monkeypatch.setattr("cutout.app.storage.base.LEAST_ROOM_BYTES", 0)
    shutil.copy(migrated_file, disk / DATABASE_FILE)
    database = Database(f"sqlite:///{disk / DATABASE_FILE}")
    with opened_studio(database, disk, redis_url, storage_check_seconds=0.05) as studio:
        studio.fund("anna", FUNDS)
        yield studio
    database.close()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    filling = disk / "filling"
    fill(filling)
    try:
        yield
    finally:
        filling.unlink()


def leftovers(disk: Path) -> list[Path]:
    return [
        file
        for file in files_below(disk / "data")
        if file.name.startswith(".cutout-") and file.stat().st_size
    ]


def test_calls_on_a_full_disk_cost_nothing_and_leave_nothing(studio: BatchClient, disk: Path) -> None:
    done = studio.remove(ANNA).raise_for_status().json()
    refine = f"{API}/jobs/{done['jobId']}/refine"
    kept = {folder: studio.kept(folder) for folder in ("results", "originals", "uploads")}
    keyed = ANNA | {"Idempotency-Key": "order-1"}
    with full(disk):
        for answer in (
            studio.remove(keyed),
            studio.client.post(refine, headers=ANNA),
            studio.hand_in(keyed, photos(3)),
        ):
            assert answer.status_code == 503, answer.text
            assert answer.json()["code"] in {"STORAGE_UNAVAILABLE", "DATABASE_UNAVAILABLE"}
            assert "full" in answer.json()["detail"]
    wait_until(lambda: studio.get("/api/health", {}).status_code == 200)
    # What could not be given back on the full disk is, now that there is room.
    wait_until(lambda: studio.balance(ANNA) == FUNDS - 3)
    assert {folder: studio.kept(folder) for folder in kept} == kept
    assert leftovers(disk) == []
    studio.remove(keyed).raise_for_status()
    studio.client.post(refine, headers=ANNA).raise_for_status()
    assert studio.balance(ANNA) == FUNDS - 6


def statuses(studio: BatchClient) -> set[Status]:
    with studio.database.read() as session:
        return set(session.scalars(select(Job.status)))


def test_a_batch_goes_on_when_there_is_room_again(studio: BatchClient, disk: Path) -> None:
    batch_id = studio.accepted(ANNA, photos(3))
    with context_of(studio.database, studio.storage, lease=0.2, keep_photos=True) as context:
        with full(disk), pytest.raises((StorageError, OperationalError)):
            process_line(context, Line.BATCH)
        # On a disk that is full to the last byte, the release itself may not have been written.
        assert statuses(studio) <= {Status.PENDING, Status.PROCESSING}

        while statuses(studio) != {Status.COMPLETED}:
            claim = studio.database.run_in_transaction(leases.claim, Line.BATCH, 3, context.lease)
            if claim is not None:
                process_claim(context, claim)
            maintenance.recover_lost_work(studio.database, context.queue, LEASE)
        # The photos are stored, and their ZIP cannot be.
        with full(disk):
            with suppress(OperationalError):
                end_batches(context)
            context.packing.submit(lambda: None).result(PATIENCE)
            assert studio.batch(ANNA, batch_id)["zipUrl"] is None

        def has_ended() -> bool:
            process_line(context, Line.BATCH)
            return bool(studio.batch(ANNA, batch_id)["status"] == "completed")

        wait_until(has_ended)
    shown = studio.batch(ANNA, batch_id)
    assert studio.client.get(shown["zipUrl"]).raise_for_status().content[:2] == b"PK"
    assert studio.balance(ANNA) == FUNDS - 9
    assert leftovers(disk) == []
    assert studio.kept("uploads") == []


def test_a_queue_on_a_full_disk_is_away_and_keeps_what_it_had(disk: Path) -> None:
    folder = disk / "valkey"
    folder.mkdir()
    queue = Queue(f"unix://{folder}/socket")
    server = valkey.start(folder, folder / "socket")
    assert server is not None
    try:
        assert queue.notify_workers(Line.BATCH)
        with full(disk):
            # Each write is synced, so that Valkey ends when one fails; its keeper starts it again.
            wait_until(lambda: not _takes_writes(queue))
            assert server.wait(PATIENCE) is not None
        server = valkey.start(folder, folder / "socket")
        assert server is not None
        queue.require()
        assert queue.connection is not None
        assert queue.connection.llen("rq:queue:batch") == 1
    finally:
        assert server is not None
        server.kill()
        server.wait()
        queue.close()


def _takes_writes(queue: Queue) -> bool:
    try:
        queue.require()
    except QueueUnavailable:
        return False
    return True


LOGGING = """
import sys
from cutout.app.core import log_config
import structlog, logging
log_config.configure(sys.argv[1])
structlog.get_logger().info("removed", job="1")
logging.getLogger("uvicorn.error").warning("anything")
open(sys.argv[2], "w").write("went on")
"""


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_log_that_cannot_be_written_stops_nothing(log_format: str, tmp_path: Path) -> None:
    with open("/dev/full", "w") as device:  # noqa: PTH123
        subprocess.run(
            [sys.executable, "-c", LOGGING, log_format, str(tmp_path / "end")],
            stdout=device,
            stderr=device,
            env=os.environ | {"PYTHONPATH": os.getcwd()},  # noqa: PTH109
            timeout=PATIENCE,
            check=False,
        )
    assert (tmp_path / "end").read_text() == "went on"
