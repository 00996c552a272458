"""Wake-up signals for workers, on a Redis or Valkey; the database holds the work.

A signal only tells a worker to look for work in the database. A lost signal is sent again, and a spurious one costs one
query. One waiting signal per line is enough: the worker that receives it claims some photos and sends a signal to the
next worker if more are left.
"""

import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import structlog
from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.backoff import EqualJitterBackoff, NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.retry import Retry
from rq import Queue as RqQueue

from cutout.app.core.errors import ServiceError
from cutout.app.jobs.leases import Line
from cutout.app.jobs.model_status import Served
from cutout.inference.scheduling.circuit_breaker import State
from cutout.inference.tiers import Tier

log = structlog.get_logger()

# Timeout of a call to the queue.
PATIENCE_SECONDS = 2.0
# The handling of one signal that takes longer is stuck; its photos are released when their lease expires.
LONGEST_JOB_SECONDS = 3600
FAILED_SECONDS = 3600
# How long a worker counts as alive after its last announcement.
ALIVE_SECONDS = 30
# How long the trace of a request is known to workers.
TRACE_SECONDS = 86_400
TRACE_KEY = "cutout:trace:"
WORKERS, WORKER_KEY, PROBE = "cutout:workers", "cutout:worker:", "cutout:probe"
# First and longest pause between two attempts of a worker that waits for its queue.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0


class QueueUnavailable(ServiceError):
    """The queue does not respond, so no batch can be accepted: workers would not be notified of it."""

    code, status = "QUEUE_UNAVAILABLE", 503
    example = "The batch queue does not answer. Nothing was stored or charged; try again in a minute."
    retry_after = 30
    # Without `Connection: close`: the body of the batch is not read, and closing a connection with unread bytes resets it,
    # so that the client might not hear this. The server discards the rest of the body.


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that is alive, and the models that serve its tiers. `breaker` is the state of the circuit breaker for
    calls to a remote model server, if there is one.
    """

    name: str
    version: str
    device: str
    queues: tuple[str, ...]
    tiers: Mapping[Tier, Served]
    breaker: State | None = None


WORKER: TypeAdapter[WorkerInfo] = TypeAdapter(WorkerInfo)


class Queue:
    """Sends wake-up signals to workers, and knows which workers are alive. Thread-safe."""

    def __init__(self, url: str | None, patience: float = PATIENCE_SECONDS) -> None:
        """Prepare to connect to `url`, such as "rediss://…" or "unix://…", without connecting. None means no queue."""
        self.connection = None if url is None else connect(url, patience)

    def require(self) -> None:
        """Check that signals can be sent.

        Raises:
            QueueUnavailable: there is no queue, or it does not respond.

        """
        if self.connection is None:
            raise QueueUnavailable(
                "This service has no batch queue; its operator can set REDIS_URL. Send the photos one by one to"
                " /api/background-remover/remove."
            )
        try:
            self._probe()
        except (RedisError, OSError) as error:
            raise _away(error) from error

    def wait(self) -> None:
        """Wait without a time limit until signals can be sent, and log why they cannot.

        Raises:
            QueueUnavailable: there is no queue.

        """
        if self.connection is None:
            self.require()
        pauses, attempts = EqualJitterBackoff(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS), 0
        while True:
            try:
                self._probe()
                return
            except (RedisError, OSError) as error:
                pause = pauses.compute(attempts)
                log.warning(
                    "The Redis or Valkey server at REDIS_URL does not answer",
                    detail=str(error),
                    again_in_seconds=round(pause, 1),
                )
            attempts = min(attempts + 1, 30)
            time.sleep(pause)

    def _probe(self) -> None:
        """Write a key, because a server that is read-only or full still responds to PING."""
        assert self.connection is not None
        self.connection.set(PROBE, "", ex=ALIVE_SECONDS)

    def notify_workers(self, line: Line) -> bool:
        """Send a wake-up signal to the workers of a line. Return False if it failed and has to be sent again later."""
        if self.connection is None:
            return False
        try:
            wake_ups = RqQueue(line.value, connection=self.connection)
            if wake_ups.count == 0:
                wake_ups.enqueue(
                    f"cutout.worker.tasks.{line.value}",
                    job_timeout=LONGEST_JOB_SECONDS,
                    result_ttl=0,
                    # RQ would keep failed ones for a year. The database holds the work, and the log the reason.
                    failure_ttl=FAILED_SECONDS,
                )
        except (RedisError, OSError) as error:
            log.warning("wake-up signal not sent", line=line.value, detail=str(error))
            return False
        return True

    def keep_trace(self, owner_id: uuid.UUID, trace: str) -> None:
        """Tell workers the trace of a single job or of a batch. If the queue does not respond, they begin one of their own."""
        if self.connection is not None:
            with suppress(RedisError, OSError):
                self.connection.set(f"{TRACE_KEY}{owner_id}", trace, ex=TRACE_SECONDS)

    def trace_of(self, owner_id: uuid.UUID) -> str | None:
        """Return the trace of a job or a batch; None if it is not known or the queue does not respond."""
        with suppress(RedisError, OSError):
            found = None if self.connection is None else self.connection.get(f"{TRACE_KEY}{owner_id}")
            return found.decode() if isinstance(found, bytes) else found
        return None

    def announce(self, worker: WorkerInfo) -> None:
        """Announce that a worker is alive. It has to be repeated within `ALIVE_SECONDS`, or the worker counts as gone.

        Raises:
            RedisError, OSError: the queue does not respond.

        """
        assert self.connection is not None
        with self.connection.pipeline() as together:
            together.set(WORKER_KEY + worker.name, WORKER.dump_json(worker), ex=ALIVE_SECONDS)
            # Keep the names in a set, so that they can be listed without a scan over all keys of the server.
            together.sadd(WORKERS, worker.name)
            together.execute()

    def forget(self, worker: WorkerInfo) -> None:
        """Remove a worker that stops."""
        assert self.connection is not None
        with self.connection.pipeline() as together:
            together.delete(WORKER_KEY + worker.name)
            together.srem(WORKERS, worker.name)
            together.execute()

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are alive, sorted by name.

        Raises:
            QueueUnavailable: there is no queue, or it does not respond.

        """
        if self.connection is None:
            self.require()
            return []
        try:
            known = self.connection.smembers(WORKERS)
            names = sorted(name if isinstance(name, str) else name.decode() for name in known)
            told = self.connection.mget([WORKER_KEY + name for name in names]) if names else []
            gone = [name for name, worker in zip(names, told, strict=True) if worker is None]
            if gone:
                self.connection.srem(WORKERS, *gone)
        except (RedisError, OSError) as error:
            raise _away(error) from error
        return [info for worker in told if worker is not None and (info := _read(worker)) is not None]

    def close(self) -> None:
        """Close the connections."""
        if self.connection is not None:
            self.connection.close()


def connect(url: str, patience: float | None) -> "Redis":
    """Prepare a connection whose calls time out after `patience` seconds; None means never.

    A broken connection is replaced and the call retried once at once; a call that timed out is not retried.
    """
    return Redis.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
    )


def _read(worker: str | bytes) -> WorkerInfo | None:
    """Parse a worker's announcement. Return None for a worker of another version with another format."""
    try:
        return WORKER.validate_json(worker)
    except ValidationError as error:
        log.warning("announcement of a worker of another version ignored", problems=error.error_count())
        return None


def _away(error: Exception) -> QueueUnavailable:
    log.error("queue does not answer", detail=str(error))
    return QueueUnavailable(
        "The batch queue does not answer. Nothing was stored or charged; try again in a minute."
    )
