"""`python -m worker`: a worker, as `cutout worker` starts it."""

import argparse
import sys
from collections.abc import Callable
from datetime import timedelta

from app import logs
from app.db import schema
from app.db.session import Database
from app.services.claims import Line
from app.services.queue import Queue
from app.settings import Settings, load
from app.startup import engine_from, storage_from
from app.storage import require_usable
from inference.engine import Engine
from worker.bench import Bench
from worker.gpu_worker import work


def main(make_engine: Callable[[Settings], Engine] = engine_from) -> int:
    """Work until told to stop: 0 then, 1 where it has to be started anew.

    `make_engine` stands in for the real engine in tests of everything else.
    """
    parser = argparse.ArgumentParser(prog="worker")
    parser.add_argument("--device")
    parser.add_argument("--queues", default=",".join(Line))
    options = parser.parse_args()
    settings = load(device=options.device)
    lines = [Line(name) for name in options.queues.split(",")]
    logs.configure(settings.log_format)
    queue = Queue(settings.redis_url.get_secret_value() if settings.redis_url else None)
    queue.require()
    assert settings.redis_url is not None
    database, storage = Database(settings.database), storage_from(settings)
    schema.require_current(database)
    require_usable(storage)
    engine = make_engine(settings)
    engine.warm_up()
    bench = Bench(engine, storage, database, queue, timedelta(seconds=settings.lease_seconds))
    try:
        stopped = work(bench, lines, settings.redis_url.get_secret_value())
    finally:
        engine.close()
        database.close()
    return 0 if stopped else 1


if __name__ == "__main__":
    sys.exit(main())
