"""Workers on a fake network, for tests: one in this process, and real worker processes.

`python -m tests.worker.worker_fixtures FOLDER` is such a process; like `python -m cutout.worker`, it takes its settings
from the environment. Its network takes FAKE_MS per photo, and a photo that contains FAKE_KILLER kills the process. With
FAKE_HASTE it notices within seconds that its queue takes no writes, and returns to it soon.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from cutout.app.batches import service as batches
from cutout.app.batches.service import BatchRequest, StoredPhoto
from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, now
from cutout.app.jobs import leases
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.storage.base import Storage
from cutout.inference.engine import Engine
from cutout.inference.imaging import decode as photo
from cutout.inference.limits import Limits
from cutout.inference.options import Options
from cutout.worker import rq_worker
from cutout.worker import tasks as worker_jobs
from cutout.worker.__main__ import main as worker_main
from cutout.worker.context import WorkerContext
from tests.app.databases import new_user
from tests.fakes import PATIENCE, FakeRunner, fake_engine, photo_bytes
from tests.forked import ModuleProcess

# So long that no lease expires on a busy host; a test that needs an expiry sets its own.
LEASE_SECONDS = 20.0
# While a file with this name is in the data folder, the network of a worker process blocks on its photo.
HOLD = "hold"
# The lease of workers in this process, which do not renew their claims.
UNRENEWED_SECONDS = 1000.0


@contextmanager
def context_of(
    database: Database,
    storage: Storage,
    url: str | None = None,
    runner: FakeRunner | None = None,
    lease: float = UNRENEWED_SECONDS,
    engine: Engine | None = None,
    *,
    keep_photos: bool = False,
) -> Iterator[WorkerContext]:
    """Create a worker in this process, on a fake network or on the given engine."""
    engine = engine or fake_engine(runner, Limits(threads=4, waiting=1000))
    context = WorkerContext(
        engine, storage, database, Queue(url), timedelta(seconds=lease), keep_photos=keep_photos
    )
    try:
        yield context
    finally:
        context.close()
        engine.close()
        context.queue.close()


def work_off(context: WorkerContext, line: Line = Line.BATCH, most: int = 1000) -> None:
    """Answer wake-up signals until no work waits, as a worker does."""
    for _ in range(most):
        worker_jobs.process_line(context, line)
        context.packing.submit(lambda: None).result(PATIENCE)
        if not context.database.run_read_only(leases.has_waiting_work, line, now()):
            return
    raise AssertionError("it never ends")


def submitted(
    database: Database,
    storage: Storage,
    photos: Sequence[bytes | tuple[str, bytes]],
    options: Options | None = None,
    *,
    user_id: uuid.UUID | None = None,
    funds: int = 100_000,
    **order: Any,
) -> Batch:
    """Submit a batch, for a new user unless one is given."""
    if user_id is None:
        user_id = new_user(database, str(uuid.uuid4())).id
        with database.begin() as session:
            ledger.grant(session, user_id, funds, f"grant:{user_id}")
    batch_id, sent = uuid.uuid4(), []
    for number, given in enumerate(photos):
        name, data = (f"photo-{number}.png", given) if isinstance(given, bytes) else given
        job_id = uuid.uuid4()
        storage.put(jobs.upload_key(job_id, batch_id), data)
        sent.append(StoredPhoto(job_id, name, ""))
    batch, _ = batches.submit(
        database, user_id, batch_id, sent, BatchRequest(options or Options(), **order), now()
    )
    return batch


def small_photos(count: int) -> list[bytes]:
    """Return `count` different photos."""
    return [photo_bytes(seed=seed) for seed in range(count)]


def worker_environment(
    database_url: str,
    folder: Path,
    redis_url: str,
    *,
    milliseconds: float = 0,
    killer: str = "",
    haste: bool = False,
    **settings: Any,
) -> dict[str, str]:
    """Return the environment for a worker on a fake network, and for a service next to it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CUTOUT_")}
    environment |= {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "CUTOUT_AUTH": "off",
        "CUTOUT_DATA_DIR": str(folder),
        "CUTOUT_LEASE_SECONDS": str(LEASE_SECONDS),
        "FAKE_MS": str(milliseconds),
        "FAKE_KILLER": killer,
        "FAKE_HASTE": str(haste or ""),
    }
    return environment | {f"CUTOUT_{name.upper()}": str(value) for name, value in settings.items()}


@contextmanager
def worker_process(folder: Path, environment: dict[str, str]) -> Iterator[ModuleProcess]:
    """Run a worker process; at the end it is told to stop, and killed if it does not."""
    log = folder / f"worker-{uuid.uuid4().hex[:6]}.log"
    process = ModuleProcess(log, environment, "tests.worker.worker_fixtures")
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> int:
    """Run the real worker on a fake network."""
    seconds, killer = float(os.environ["FAKE_MS"]) / 1000, os.environ["FAKE_KILLER"].encode()
    if killer:
        die_at(killer)
    if os.environ["FAKE_HASTE"]:
        # RQ waits 15 s less than this for a wake-up signal before it writes to the queue again.
        rq_worker.WORKER_TTL, rq_worker.LONGEST_PAUSE_SECONDS = 17, 1.0
    hold = Path(os.environ["CUTOUT_DATA_DIR"], HOLD)

    def work_long() -> None:
        time.sleep(seconds)
        while hold.exists():
            time.sleep(0.05)

    runner = FakeRunner(before=work_long)
    return worker_main(lambda _: fake_engine(runner, Limits(threads=4, waiting=1000)))


def die_at(killer: bytes) -> None:
    """Make a photo that contains these bytes kill the process, as a driver's crash would."""
    decode = photo.decode

    def deadly(data: bytes, *args: Any, **kwargs: Any) -> photo.Photo:
        if killer in data:
            os.kill(os.getpid(), signal.SIGKILL)
        return decode(data, *args, **kwargs)

    photo.decode = deadly


if __name__ == "__main__":
    sys.exit(main())
