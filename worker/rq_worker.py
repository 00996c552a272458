"""RQ worker that runs jobs in its own process with a warm engine. RQ's default worker forks, which breaks CUDA."""

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import FrameType

import structlog
from redis.exceptions import RedisError
from rq import Queue as RqQueue
from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job as RqJob
from sqlalchemy.exc import OperationalError

from cutout.app.jobs import leases
from cutout.app.jobs.leases import Line
from cutout.app.jobs.model_status import served_by
from cutout.app.jobs.queue import QueueUnavailable, WorkerInfo, connect
from cutout.version import __version__
from cutout.worker import tasks
from cutout.worker.context import WorkerContext
from cutout.worker.heartbeat import Heartbeat

log = structlog.get_logger()

# RQ's defaults are minutes, and a dead worker's wake-up signal would take that long to be delivered again.
WORKER_TTL, MAINTENANCE_SECONDS, HEARTBEAT_TTL = 30, 10, 35
ALIVE_EVERY = BEAT_EVERY = timedelta(seconds=10)
# Back-off between attempts when the queue is unreachable or read-only: first pause, longest pause, and how long a
# connection must have worked to reset the back-off. Jitter shortens each pause, so that workers do not retry at once.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, HEALTHY_SECONDS = 0.5, 10.0, 30.0

# Job names that services of version 0.1 enqueue; to be removed in 0.3.
FORMER_NAMES = {f"worker.jobs.{line}": f"cutout.worker.tasks.{line}" for line in Line}


class RqWorker(SimpleWorker):
    """Handles wake-up signals until it is told to stop, its device fails, or it loses the queue.

    RQ's worker ends when the queue fails, except while it waits for a job. `listen` then starts a new one.
    """

    def __init__(self, context: WorkerContext, lines: Sequence[Line], url: str, name: str) -> None:
        super().__init__(
            [line.value for line in lines],
            name=name,
            connection=connect(url, None),
            worker_ttl=WORKER_TTL,
            maintenance_interval=MAINTENANCE_SECONDS,
            log_job_description=False,
        )
        # Upper limit of RQ's own reconnect pauses, which grow from one second.
        jitter = random.uniform(0.5, 1.0)  # nosec B311 # no secret
        self.max_connection_wait_time = LONGEST_PAUSE_SECONDS * jitter
        self.context = context
        self._is_waiting = False

    def get_heartbeat_ttl(self, job: RqJob, working_time: float = 0.0) -> int:
        return HEARTBEAT_TTL

    def execute_job(self, job: RqJob, queue: RqQueue) -> None:
        if job.func_name in FORMER_NAMES:
            job.func_name = FORMER_NAMES[job.func_name]
        try:
            super().execute_job(job, queue)
        finally:
            if self.context.engine.lost is not None:
                self._stop_requested = True

    def perform_job(self, job: RqJob, queue: RqQueue, execution: Execution) -> bool:
        """Do the work, and tell RQ meanwhile that it goes on: its record of it would expire within `HEARTBEAT_TTL`.

        RQ's `SimpleWorker` does not. Without its record a signal counts as failed, and is kept for `failure_ttl`.
        """
        beat = partial(self.maintain_heartbeats, job, execution)
        with Heartbeat("wake-up signal", BEAT_EVERY, beat):
            return super().perform_job(job, queue, execution)

    def dequeue_job_and_maintain_ttl(
        self, timeout: int | None, max_idle_time: int | None = None
    ) -> tuple[RqJob, RqQueue] | None:
        self._is_waiting = True
        try:
            if self._stop_requested:  # set after RQ's loop checked it
                raise StopRequested
            return super().dequeue_job_and_maintain_ttl(timeout, max_idle_time)
        finally:
            self._is_waiting = False

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        """Stop after the current photos and release the other claimed ones. A second signal ends the process.

        RQ's own handler queries the queue, which would interrupt the work if the queue is unreachable.
        """
        self.context.stopping.set()
        self._stop_requested = True
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, signal.SIG_DFL)
        if self._is_waiting:
            raise StopRequested

    def _install_signal_handlers(self) -> None:
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        # A signal arrived while this worker was connecting. From here on `request_stop` handles signals.
        if self.context.stopping.is_set():
            self._stop_requested = True

    def handle_execution_ended(self, job: RqJob, queue: RqQueue, heartbeat_ttl: int) -> None:
        """Let RQ record the finished job; skip that when stopping while the queue does not answer.

        Raises:
            StopRequested: the worker is stopping and the queue does not answer.

        """
        if self.context.stopping.is_set():
            try:
                self.context.queue.require()
            except QueueUnavailable:
                raise StopRequested from None
        super().handle_execution_ended(job, queue, heartbeat_ttl)

    def subscribe(self) -> None:
        """Do nothing: RQ's commands are not used, and its thread for them dies when the queue hangs."""

    def unsubscribe(self) -> None:
        """Do nothing."""

    def teardown(self) -> None:
        """Deregister this worker, if the queue answers within its timeout."""
        assert self.context.queue.connection is not None
        self.connection = self.context.queue.connection
        try:
            self.register_death()  # type: ignore[no-untyped-call]
        except (RedisError, OSError) as error:
            log.warning("worker not deregistered from the queue", detail=str(error))


def info_of(context: WorkerContext, name: str, lines: Sequence[Line]) -> WorkerInfo:
    """Return the status that a worker announces now."""
    breaker = context.engine.breaker
    return WorkerInfo(
        name,
        __version__,
        context.engine.where,
        tuple(line.value for line in lines),
        served_by(context.engine),
        breaker.state if breaker is not None else None,
    )


def work(context: WorkerContext, lines: Sequence[Line], url: str) -> bool:
    """Work until SIGTERM or SIGINT. Return False if it ended for another reason and must be restarted."""
    name = f"{socket.gethostname()}-{os.getpid()}"

    def announce() -> None:
        context.queue.announce(info_of(context, name, lines))

    info = info_of(context, name, lines)
    tasks.set_context(context)
    log.info("worker: ENABLED", name=info.name, device=info.device, queues=",".join(info.queues))
    try:
        with (
            Heartbeat("leases", context.lease / 3, context.renew),
            Heartbeat("alive", ALIVE_EVERY, announce),
        ):
            listen(context, lines, url, name, announce)
            # A second signal interrupts the packing; its lease expires, and another worker packs the batch.
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            context.close()
    finally:
        # If the queue is unreachable, the worker's entry there expires by itself.
        with suppress(RedisError, OSError):
            context.queue.forget(info)
    return context.stopping.is_set() and context.engine.lost is None


def listen(
    context: WorkerContext, lines: Sequence[Line], url: str, name: str, announce: Callable[[], None]
) -> None:
    """Handle wake-up signals until told to stop or the device fails. Reconnect to a lost queue without a time limit.

    When the queue is lost, the current photos are still finished and committed to the database.
    """
    pause, connections = FIRST_PAUSE_SECONDS, 0
    while not context.stopping.is_set() and context.engine.lost is None:
        # RQ's worker installs its own handlers once it is connected.
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, lambda *_: context.stopping.set())
        began, detail = time.monotonic(), "the queue failed during use"
        connections += 1
        try:
            announce()
            _notify_of_waiting_work(context, lines)
            # A new name each time, because the queue may still hold the previous one.
            worker = RqWorker(context, lines, url, f"{name}.{connections}")
            worker.work(logging_level="WARNING")
        except (RedisError, OSError) as error:
            detail = str(error)
        if context.stopping.is_set() or context.engine.lost is not None:
            return
        if time.monotonic() - began >= HEALTHY_SECONDS:
            pause = FIRST_PAUSE_SECONDS
        wait = pause * random.uniform(0.5, 1.0)  # nosec B311 # jitter, no secret
        log.warning("queue lost", detail=detail, again_in_seconds=round(wait, 1))
        context.stopping.wait(wait)
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def _notify_of_waiting_work(context: WorkerContext, lines: Sequence[Line]) -> None:
    """Send a wake-up signal for work that is already waiting: earlier signals may have been lost with the queue."""
    for line in lines:
        try:
            if context.database.run_read_only(leases.has_waiting_work, line):
                context.queue.notify_workers(line)
        except OperationalError as error:  # the services send signals periodically as well
            log.warning("waiting work not checked", line=line.value, detail=str(error.orig))
