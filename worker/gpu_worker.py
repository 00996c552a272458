"""A worker: an RQ worker in one process with a warm engine, which CUDA would not survive the fork of RQ's usual one."""

import os
import signal
import socket
from collections.abc import Sequence
from datetime import timedelta
from types import FrameType

import structlog
from rq import Queue as RqQueue
from rq import SimpleWorker
from rq.job import Job as RqJob

import app
from app.services.claims import Line
from app.services.queue import WorkerInfo, connect
from app.services.serving import served_by
from worker import jobs
from worker.bench import Bench
from worker.pulse import Pulse

log = structlog.get_logger()

# What RQ waits for by itself is minutes: a dead worker's bell would be as long in coming back.
WORKER_TTL, MAINTENANCE_SECONDS, HEARTBEAT_TTL = 30, 10, 35
ALIVE_EVERY = timedelta(seconds=10)


class GpuWorker(SimpleWorker):
    """Answers bells at a bench until it is told to stop, or its device fails."""

    # Seconds between attempts while the queue is away; the default goes up to a minute.
    max_connection_wait_time = 2.0

    def __init__(self, bench: Bench, lines: Sequence[Line], url: str, name: str) -> None:
        super().__init__(
            [line.value for line in lines],
            name=name,
            connection=connect(url, None),
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )
        self.bench = bench

    def get_heartbeat_ttl(self, job: RqJob, working_time: float = 0.0) -> int:
        return HEARTBEAT_TTL

    def execute_job(self, job: RqJob, queue: RqQueue) -> None:
        super().execute_job(job, queue)
        if self.bench.engine.lost is not None:
            self._stop_requested = True

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the photos in hand; what else was claimed is let go."""
        self.bench.stopping.set()
        super().request_stop(signum, frame)  # type: ignore[no-untyped-call]


def info_of(bench: Bench, name: str, lines: Sequence[Line]) -> WorkerInfo:
    """Return what a worker says of itself now."""
    remote = bench.engine.remote
    return WorkerInfo(
        name,
        app.__version__,
        bench.engine.where,
        tuple(line.value for line in lines),
        served_by(bench.engine),
        remote.breaker.state if remote is not None else None,
    )


def work(bench: Bench, lines: Sequence[Line], url: str) -> bool:
    """Work until told to stop, by SIGTERM or SIGINT; False if it ends for another reason and has to be started anew."""
    worker = GpuWorker(bench, lines, url, f"{socket.gethostname()}-{os.getpid()}")

    def announce() -> None:
        bench.queue.announce(info_of(bench, worker.name, lines))

    info = info_of(bench, worker.name, lines)
    jobs.work_at(bench)
    announce()
    log.info("worker: ENABLED", name=info.name, device=info.device, queues=",".join(info.queues))
    try:
        with (
            Pulse("leases", bench.lease / 3, bench.renew),
            Pulse("alive", ALIVE_EVERY, announce),
        ):
            worker.work(logging_level="WARNING")
            # A second signal breaks off what is being packed; its lease runs out, and another worker packs it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            bench.close()
    finally:
        bench.queue.forget(info)
    return bench.stopping.is_set() and bench.engine.lost is None
