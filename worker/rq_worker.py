"""A worker: an RQ worker in one process with a warm engine, which CUDA would not survive the fork of RQ's usual one."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from types import FrameType

import structlog
from redis.exceptions import RedisError
from rq import Queue as RqQueue
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.job import Job as RqJob
from sqlalchemy.exc import OperationalError

from cutout import __version__
from cutout.app.db.tables import now
from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.jobs.model_status import served_by
from cutout.app.jobs.queue import QueueUnavailable, WorkerInfo, connect
from cutout.worker import tasks
from cutout.worker.context import Bench
from cutout.worker.heartbeat import Pulse

log = structlog.get_logger()

# What RQ waits for by itself is minutes: a dead worker's bell would be as long in coming back.
WORKER_TTL, MAINTENANCE_SECONDS, HEARTBEAT_TTL = 30, 10, 35
ALIVE_EVERY = timedelta(seconds=10)
# Between two attempts at a queue that is away, or does not let itself be written to: at first, at most, and how long it has
# to have been there for the pauses to begin anew. Each is shortened by chance, so that not all workers come at once.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, HEALTHY_SECONDS = 0.5, 10.0, 30.0

# The names that services of version 0.1 put into the queue; to be removed in 0.3.
FORMER_NAMES = {f"worker.jobs.{line}": f"cutout.worker.tasks.{line}" for line in Line}


class GpuWorker(SimpleWorker):
    """Answers bells at a bench until it is told to stop, its device fails, or it loses the queue.

    RQ's own worker ends wherever the queue fails it, except while it waits for a bell. `listen` goes on with a new one.
    """

    def __init__(self, bench: Bench, lines: Sequence[Line], url: str, name: str) -> None:
        super().__init__(
            [line.value for line in lines],
            name=name,
            connection=connect(url, None),
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )
        # Of RQ's own pauses, which grow from a second.
        self.max_connection_wait_time = LONGEST_PAUSE_SECONDS * random.uniform(0.5, 1.0)
        self.bench = bench
        self._is_waiting = False

    def get_heartbeat_ttl(self, job: RqJob, working_time: float = 0.0) -> int:
        return HEARTBEAT_TTL

    def execute_job(self, job: RqJob, queue: RqQueue) -> None:
        if job.func_name in FORMER_NAMES:
            job.func_name = FORMER_NAMES[job.func_name]
        try:
            super().execute_job(job, queue)
        finally:
            if self.bench.engine.lost is not None:
                self._stop_requested = True

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RqJob, RqQueue] | None:
        self._is_waiting = True
        try:
            if self._stop_requested:  # since it was looked at last
                raise StopRequested
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._is_waiting = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the photos in hand; what else was claimed is let go. A second signal ends the process.

        RQ's own asks the queue what it is doing, which interrupts the work where the queue is away.
        """
        self.bench.stopping.set()
        self._stop_requested = True
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        if self._is_waiting:
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        # A signal that came while this worker was connecting; from here on they come to `request_stop`.
        if self.bench.stopping.is_set():
            self._stop_requested = True

    def handle_execution_ended(self, job: RqJob, queue: RqQueue, heartbeat_ttl: int) -> None:
        """Keep RQ's books on what was done; where the queue hangs at the end, a stop does not wait for that.

        Raises:
            StopRequested: it does.

        """
        if self.bench.stopping.is_set():
            try:
                self.bench.queue.require()
            except QueueUnavailable:
                raise StopRequested from None
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def subscribe(self) -> None:
        """Do nothing: RQ's commands are not used, and its thread for them ends where the queue hangs."""

    def unsubscribe(self) -> None:
        """Do nothing."""

    def teardown(self) -> None:
        """Say that this worker is gone, if the queue answers soon."""
        assert self.bench.queue.connection is not None
        self.connection = self.bench.queue.connection
        try:
            self.register_death()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            log.warning("queue not told of a worker's end", detail=str(error))


def info_of(bench: Bench, name: str, lines: Sequence[Line]) -> WorkerInfo:
    """Return what a worker says of itself now."""
    breaker = bench.engine.breaker
    return WorkerInfo(
        name,
        __version__,
        bench.engine.where,
        tuple(line.value for line in lines),
        served_by(bench.engine),
        breaker.state if breaker is not None else None,
    )


def work(bench: Bench, lines: Sequence[Line], url: str) -> bool:
    """Work until told to stop, by SIGTERM or SIGINT; False if it ends for another reason and has to be started anew."""
    name = f"{socket.gethostname()}-{os.getpid()}"

    def announce() -> None:
        bench.queue.announce(info_of(bench, name, lines))

    info = info_of(bench, name, lines)
    tasks.work_at(bench)
    log.info("worker: ENABLED", name=info.name, device=info.device, queues=",".join(info.queues))
    try:
        with (
            Pulse("leases", bench.lease / 3, bench.renew),
            Pulse("alive", ALIVE_EVERY, announce),
        ):
            listen(bench, lines, url, name, announce)
            # A second signal breaks off what is being packed; its lease runs out, and another worker packs it.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            bench.close()
    finally:
        # Where the queue is away, it forgets by itself.
        with suppress(RedisError, OSError):
            bench.queue.forget(info)
    return bench.stopping.is_set() and bench.engine.lost is None


def listen(bench: Bench, lines: Sequence[Line], url: str, name: str, announce: Callable[[], None]) -> None:
    """Answer bells until told to stop, or the device fails. A queue that is lost is waited for, however long it takes.

    What is in hand then is finished, and stands in the database.
    """
    pause, connections = FIRST_PAUSE_SECONDS, 0
    while not bench.stopping.is_set() and bench.engine.lost is None:
        # RQ's worker sets its own as soon as it is connected.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: bench.stopping.set())
        began, detail = time.monotonic(), "the queue failed while it was used"
        connections += 1
        try:
            announce()
            _ring_for_what_waits(bench, lines)
            # A name that the queue may still hold is not given again.
            worker = GpuWorker(bench, lines, url, f"{name}.{connections}")
            worker.work(logging_level="WARNING")
        except (RedisError, OSError) as error:
            detail = str(error)
        if bench.stopping.is_set() or bench.engine.lost is not None:
            return
        if time.monotonic() - began >= HEALTHY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        wait = pause * random.uniform(0.5, 1.0)
        log.warning("queue lost", detail=detail, again_in_seconds=round(wait, 1))
        bench.stopping.wait(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _ring_for_what_waits(bench: Bench, lines: Sequence[Line]) -> None:
    """Ring for what is to be done already: bells may have been lost with the queue."""
    for line in lines:
        try:
            if bench.database.ask(leases.something_waits, line, now()):
                bench.queue.ring(line)
        except OperationalError as error:  # the services ring by the clock
            log.warning("not looked what waits", line=line.value, detail=str(error.orig))
