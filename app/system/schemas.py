"""Response schema of `/api/health`."""

import math
from dataclasses import asdict
from typing import Literal, Self

from cutout.app.core.schema import Schema
from cutout.app.jobs.queue import WorkerInfo
from cutout.app.jobs.schemas import TierInfo
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker, State
from cutout.inference.tiers import Recipe, Tier


class QueueState(Schema):
    """The state of the batch queue: whether it answers, and the number of waiting photos and unfinished batches."""

    answers: bool
    waiting: int
    batches: int


class WorkerTier(Schema):
    """The model that serves a tier on a worker. `wanted` differs from `model` if a substitute is used; `own` is true for
    the operator's own weights.
    """

    model: str
    backend: str
    recipe: Recipe
    wanted: str
    substitute: bool
    own: bool


class Worker(Schema):
    """A live worker. `breaker` is the state of its circuit breaker for remote networks, null if it runs them itself."""

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
    """The circuit breaker for remote networks: `closed` (calls are made), `open` (no calls for `retryAfter` seconds) or
    `half-open` (one trial call is made).
    """

    breaker: State
    retry_after: int | None

    @classmethod
    def of(cls, breaker: CircuitBreaker) -> Self:
        state = breaker.state
        return cls(breaker=state, retry_after=math.ceil(breaker.wait) if state == "open" else None)


class HealthProblem(Schema):
    """A problem: an error code of the API or `NO_WORKER`, and a message that says what to do."""

    code: str
    detail: str


class Health(Schema):
    """The health of the service and the models it uses. `queue` is null if there is no queue or the database does not
    answer; `remote` is null if networks run on this host. `problems` is empty if everything works.
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
