"""The response document of `/api/health`."""

import math
from dataclasses import asdict
from typing import Literal, Self

from cutout.app.core.schema import Schema
from cutout.app.jobs.queue import WorkerInfo
from cutout.app.jobs.schemas import TierInfo
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker, State
from cutout.inference.tiers import Recipe, Tier


class QueueState(Schema):
    """Of the queue of batches: whether it answers, how many of their photos wait, and how many batches have not ended."""

    answers: bool
    waiting: int
    batches: int


class WorkerTier(Schema):
    """What serves a tier on a worker."""

    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool


class Worker(Schema):
    """A worker that is alive. `breaker` is of its calls to networks elsewhere, null where they are there."""

    name: str
    version: str
    device: str
    queues: list[str]
    tiers: dict[Tier, WorkerTier]
    breaker: State | None

    @classmethod
    def of(cls, worker: WorkerInfo) -> "Worker":
        return cls(
            name=worker.name,
            version=worker.version,
            device=worker.device,
            queues=list(worker.queues),
            tiers={tier: WorkerTier(**asdict(served)) for tier, served in worker.tiers.items()},
            breaker=worker.breaker,
        )


class RemoteState(Schema):
    """Of networks elsewhere: whether calls go there (`closed`), none does for `retryAfter` seconds (`open`), or one is
    tried (`half-open`).
    """

    breaker: State
    retry_after: int | None

    @classmethod
    def of(cls, breaker: CircuitBreaker) -> Self:
        state = breaker.state
        return cls(breaker=state, retry_after=math.ceil(breaker.wait) if state == "open" else None)


class HealthProblem(Schema):
    """Something that is wrong: a code as errors have them, or `NO_WORKER`, and what to do."""

    code: str
    detail: str


class Health(Schema):
    """Whether pictures can be made here, and with what. `queue` is null where there is none, or the database is away;
    `remote` where networks run on this host. `problems` is empty where all is well.
    """

    status: Literal["ok", "degraded"]
    version: str
    schema_revision: str | None
    device: str
    tiers: dict[Tier, TierInfo]
    remote: RemoteState | None
    queue: QueueState | None
    workers: list[Worker]
    problems: list[HealthProblem]
