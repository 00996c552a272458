"""`/api/health`: whether the service is ready, and which models it uses."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from cutout.app.http.state import provided
from cutout.app.jobs.schemas import TierInfo
from cutout.app.removals.dependencies import ExecutorDep
from cutout.app.system.readiness import Readiness
from cutout.app.system.schemas import Health, HealthProblem, QueueState, RemoteState, Worker
from cutout.version import __version__

router = APIRouter(prefix="/api", tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
async def health(
    executor: ExecutorDep, readiness: Annotated[Readiness, Depends(provided(Readiness))], response: Response
) -> Health:
    """Return the health of the service: 200 if it can process photos and store results, else 503.

    The status is 503 while the models are loading, while the database or the storage fails, and while the circuit
    breaker for remote networks is open. The response arrives within two seconds, even if a dependency hangs.

    If the service processes single photos itself, `queue` and `workers` concern batches only and do not affect the
    status. `problems` lists everything that is wrong, for example that photos are waiting while no worker is alive.
    """
    found = await readiness.look()
    device, tiers = executor.serving_by(found.workers)
    breaker = executor.breaker()
    remote = None if breaker is None else RemoteState.of(breaker)
    able = not found.faults and (remote is None or remote.breaker != "open")
    if not able:
        response.status_code = 503
    queue = None
    if found.waiting is not None:
        queue = QueueState(
            answers=found.workers is not None, waiting=found.waiting.photos, batches=found.waiting.batches
        )
    return Health(
        status="ok" if able else "degraded",
        version=__version__,
        schema_revision=found.revision,
        device=device,
        tiers=TierInfo.by_tier(tiers),
        remote=remote,
        queue=queue,
        workers=[] if found.revision is None else [Worker.of(worker) for worker in found.workers or ()],
        problems=[
            HealthProblem(code=fault.code, detail=fault.detail)
            for fault in (*found.faults, *found.of_batches)
        ],
    )
