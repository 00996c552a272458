"""`python -m cutout.worker`: one worker process, as `cutout worker` and `cutout serve` start it."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import structlog
from sqlalchemy.exc import OperationalError

from cutout.app.bootstrap import engine_from, prepare, storage_from
from cutout.app.config.data_folder import open_data_folder
from cutout.app.config.settings import Settings, load
from cutout.app.core import log_config
from cutout.app.core.errors import OperatorError
from cutout.app.db.session import Database
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue, QueueUnavailable
from cutout.app.observability.trace_export import open_tracing
from cutout.app.observability.worker_pipe import answer_service
from cutout.app.system.worker_metrics import PortTaken, exposition_of
from cutout.inference.engine import Engine
from cutout.inference.errors import CutoutError
from cutout.version import __version__
from cutout.worker import parent_watch
from cutout.worker.context import WorkerContext
from cutout.worker.rq_worker import work

log = structlog.get_logger()

# Errors that the operator can fix; they are logged without a traceback.
TOLD = (OperatorError, CutoutError, QueueUnavailable, OperationalError)


def main(make_engine: Callable[[Settings], Engine] = engine_from) -> int:
    """Run the worker until it is told to stop. Return 0 then, or 1 if it has to be restarted.

    Tests pass `make_engine` to replace the real engine.
    """
    parser = argparse.ArgumentParser(prog="python -m cutout.worker")
    parser.add_argument("--device")
    parser.add_argument("--queues", default=",".join(Line))
    parser.add_argument("--figures-fd", type=int, help="where the service asks for metrics")
    parser.add_argument("--lifeline", action="store_true", help="stop when stdin ends")
    options = parser.parse_args()
    # Replaced later, when the worker installs its own handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    settings = load(device=options.device)
    log_config.configure(settings.log_format)
    stopping = threading.Event()
    # Before `set_up`, which may wait indefinitely for the queue.
    if options.lifeline:
        parent_watch.follow(stopping)
    try:
        context = set_up(settings, make_engine, stopping)
    except TOLD as error:
        log.error("worker: not started", detail=str(error))
        return 1
    assert settings.redis_url is not None
    lines = [Line(name) for name in options.queues.split(",")]
    try:
        with telling(context, settings, options.figures_fd):
            stopped = work(context, lines, settings.redis_url.get_secret_value())
    except PortTaken as error:
        log.error("worker: not started", detail=str(error))
        return 1
    finally:
        context.engine.close()
        context.tracing.close()
        context.database.close()
    return 0 if stopped else 1


def set_up(
    settings: Settings, make_engine: Callable[[Settings], Engine], stopping: threading.Event
) -> WorkerContext:
    """Connect to the queue, database and storage, and warm up the engine. Wait as long as the queue does not answer.

    Raises:
        OperatorError, CutoutError, QueueUnavailable, OperationalError: the database, the storage or the engine is not
            available, or no queue is configured.

    """
    open_data_folder(settings)
    queue = Queue(settings.redis_url.get_secret_value() if settings.redis_url else None)
    queue.wait()
    database, storage = Database(settings.database, settings.database_seconds), storage_from(settings)
    prepare(settings, database, storage)
    engine = make_engine(settings)
    engine.warm_up()
    lease = timedelta(seconds=settings.lease_seconds)
    return WorkerContext(
        engine,
        storage,
        database,
        queue,
        lease,
        keep_photos=settings.keep_photos,
        tracing=open_tracing("cutout-worker", __version__),
        stopping=stopping,
    )


@contextmanager
def telling(context: WorkerContext, settings: Settings, descriptor: int | None) -> Iterator[None]:
    """Tell the metrics of this worker within the block: to the service that started it, or at a port of its own.

    Raises:
        PortTaken: the port cannot be listened on.

    """
    exposition = exposition_of(context.engine, context.database)
    if descriptor is not None:
        answer_service(descriptor, exposition.for_service)
        yield
        return
    if settings.worker_metrics_port is None:
        yield
        return
    from cutout.app.system.worker_server import (
        serving,  # imports FastAPI, which a worker does not need otherwise
    )

    with serving(exposition, settings.worker_metrics_port, settings) as port:
        log.info("worker: metrics", port=port)
        yield


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main())
