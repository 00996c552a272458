"""The doorbell of the workers, on a Redis or Valkey.

What is to be done stands in the database. The queue only says that something is, so that a worker looks: a bell that is
lost is rung again, and one that rings in vain costs a glance. One waiting bell is enough: the worker that hears it
claims some photos and rings for the next worker if more are left.
"""

import time
from collections.abc import Mapping
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

# How long an answer is waited for.
PATIENCE_SECONDS = 2.0
# A bell that takes longer hangs; what was claimed is freed with its lease.
LONGEST_JOB_SECONDS = 3600
# How long a worker that says nothing still counts as alive.
ALIVE_SECONDS = 30
WORKERS, WORKER_KEY, PROBE = "cutout:workers", "cutout:worker:", "cutout:probe"
# Between two attempts of a worker that starts before its queue: at first, and at most.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0


class QueueUnavailable(ServiceError):
    """No batch can be taken in: nothing would tell the workers of it."""

    code, status = "QUEUE_UNAVAILABLE", 503
    example = "The queue of batches does not answer. Nothing was kept or charged; try again in a minute."
    retry_after = 30
    # The body of a batch is not read then, so the connection cannot be used again.
    headers: Mapping[str, str] = {"Connection": "close"}


@dataclass(frozen=True)
class WorkerInfo:
    """A worker that is alive, and what each tier is served by there. `breaker` is of calls to networks elsewhere."""

    name: str
    version: str
    device: str
    queues: tuple[str, ...]
    tiers: Mapping[Tier, Served]
    breaker: State | None = None


WORKER: TypeAdapter[WorkerInfo] = TypeAdapter(WorkerInfo)


class Queue:
    """Rings for workers, and knows which are alive. Safe to use from any number of threads."""

    def __init__(self, url: str | None, patience: float = PATIENCE_SECONDS) -> None:
        """Prepare to connect to `url`, as in "rediss://…" or "unix://…"; nothing is opened yet. None: there is none."""
        self.connection = None if url is None else connect(url, patience)

    def require(self) -> None:
        """Return if the queue can be rung.

        Raises:
            QueueUnavailable: there is none, or it does not answer.

        """
        if self.connection is None:
            raise QueueUnavailable(
                "This service has no queue of batches: its owner sets REDIS_URL. Send the photos one by one to"
                " /api/background-remover/remove."
            )
        try:
            self._probe()
        except (RedisError, OSError) as error:
            raise _away(error) from error

    def wait(self) -> None:
        """Return once the queue can be rung, however long that takes; meanwhile the log says why it cannot.

        Raises:
            QueueUnavailable: there is none.

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
                    "The Redis or Valkey of REDIS_URL does not answer",
                    detail=str(error),
                    again_in_seconds=round(pause, 1),
                )
            attempts = min(attempts + 1, 30)
            time.sleep(pause)

    def _probe(self) -> None:
        """Write something: a server that is read-only, or full, answers a PING all the same."""
        assert self.connection is not None
        self.connection.set(PROBE, "", ex=ALIVE_SECONDS)

    def notify_workers(self, line: Line) -> bool:
        """Tell the workers of this line that something waits; False if that cannot be, and has to be done later."""
        if self.connection is None:
            return False
        try:
            bells = RqQueue(line.value, connection=self.connection)
            if bells.count == 0:
                bells.enqueue(
                    f"cutout.worker.tasks.{line.value}", job_timeout=LONGEST_JOB_SECONDS, result_ttl=0
                )
        except (RedisError, OSError) as error:
            log.warning("bell not rung", line=line.value, detail=str(error))
            return False
        return True

    def announce(self, worker: WorkerInfo) -> None:
        """Say that a worker is alive; often enough, or it counts as gone.

        Raises:
            RedisError, OSError: the queue does not answer.

        """
        assert self.connection is not None
        with self.connection.pipeline() as together:
            together.set(WORKER_KEY + worker.name, WORKER.dump_json(worker), ex=ALIVE_SECONDS)
            # A name is found here, and not by a walk through all that the server keeps.
            together.sadd(WORKERS, worker.name)
            together.execute()

    def forget(self, worker: WorkerInfo) -> None:
        """Say that a worker is gone."""
        assert self.connection is not None
        with self.connection.pipeline() as together:
            together.delete(WORKER_KEY + worker.name)
            together.srem(WORKERS, worker.name)
            together.execute()

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that are alive, by name.

        Raises:
            QueueUnavailable: there is no queue, or it does not answer.

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
    """Prepare a connection; a call waits `patience` seconds at most, or for ever.

    One that died with its server is replaced at once; a server that hangs is not asked a second time.
    """
    return Redis.from_url(
        url,
        socket_timeout=patience,
        socket_connect_timeout=patience,
        retry=Retry(NoBackoff(), 1, (RedisConnectionError,)),
    )


def _read(worker: str | bytes) -> WorkerInfo | None:
    """Read what a worker says of itself; None where one of another version says it in another way."""
    try:
        return WORKER.validate_json(worker)
    except ValidationError as error:
        log.warning("worker of another version not understood", problems=error.error_count())
        return None


def _away(error: Exception) -> QueueUnavailable:
    log.error("queue does not answer", detail=str(error))
    return QueueUnavailable(
        "The queue of batches does not answer. Nothing was kept or charged; try again in a minute."
    )
