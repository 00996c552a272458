"""`python -m worker`: a worker, as `cutout worker` and `cutout serve` start it."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta

import structlog
from sqlalchemy.exc import OperationalError

from app import logs
from app.codes import Explained
from app.data_folder import open_data_folder
from app.db.session import Database
from app.services.claims import Line
from app.services.queue import Queue, QueueUnavailable
from app.settings import Settings, load
from app.startup import engine_from, prepare, storage_from
from inference.engine import Engine
from inference.errors import CutoutError
from worker import lifeline
from worker.bench import Bench
from worker.gpu_worker import work

log = structlog.get_logger()

# What the host's owner can mend.
TOLD = (Explained, CutoutError, QueueUnavailable, OperationalError)


def main(make_engine: Callable[[Settings], Engine] = engine_from) -> int:
    """Work until told to stop: 0 then, 1 where it has to be started anew.

    `make_engine` stands in for the real engine in tests of everything else.
    """
    parser = argparse.ArgumentParser(prog="worker")
    parser.add_argument("--device")
    parser.add_argument("--queues", default=",".join(Line))
    parser.add_argument("--lifeline", action="store_true", help="stop when stdin ends")
    options = parser.parse_args()
    # Until the worker answers it itself.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load(device=options.device)
    logs.configure(settings.log_format)
    stopping = threading.Event()
    # First of all: what follows may wait for a queue that is away.
    if options.lifeline:
        lifeline.follow(stopping)
    try:
        bench = set_up(settings, make_engine, stopping)
    except TOLD as error:
        log.error("worker: not started", detail=str(error))
        return 1
    assert settings.redis_url is not None
    lines = [Line(name) for name in options.queues.split(",")]
    try:
        stopped = work(bench, lines, settings.redis_url.get_secret_value())
    finally:
        bench.engine.close()
        bench.database.close()
    return 0 if stopped else 1


def set_up(settings: Settings, make_engine: Callable[[Settings], Engine], stopping: threading.Event) -> Bench:
    """Set up a bench: with queue, database and storage that answer, and a warm engine. A queue that is away is waited for.

    Raises:
        Explained, CutoutError, QueueUnavailable, OperationalError: one of the others cannot be had, or there is no queue.

    """
    open_data_folder(settings)
    queue = Queue(settings.redis_url.get_secret_value() if settings.redis_url else None)
    queue.wait()
    database, storage = Database(settings.database, settings.database_seconds), storage_from(settings)
    prepare(settings, database, storage)
    engine = make_engine(settings)
    engine.warm_up()
    lease = timedelta(seconds=settings.lease_seconds)
    return Bench(engine, storage, database, queue, lease, stopping=stopping)


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
