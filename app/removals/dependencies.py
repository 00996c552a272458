"""The executor and the context of removals, as parameters of endpoints."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from cutout.app.core.errors import ModelUnavailableError
from cutout.app.http.dependencies import DatabaseDep, MetricsDep, SettingsDep, StorageDep
from cutout.app.http.openapi import raises
from cutout.app.http.state import provided, state_of
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.observability.tracing import Tracing
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.removals.refining import RefinementSlots
from cutout.app.removals.request import RemovalContext
from cutout.app.storage.probe import StorageProbe


@raises(ModelUnavailableError)
async def get_executor(request: Request) -> RemovalExecutor:
    """Return what makes pictures, once the models are loaded."""
    executor = state_of(request.app).find(RemovalExecutor)
    if executor is None:
        raise ModelUnavailableError("The models are still loading. Try again in a moment.")
    return executor


ExecutorDep = Annotated[RemovalExecutor, Depends(get_executor)]


async def get_removal_context(
    request: Request,
    executor: ExecutorDep,
    storage: StorageDep,
    database: DatabaseDep,
    settings: SettingsDep,
    metrics: MetricsDep,
) -> RemovalContext:
    state = state_of(request.app)
    return RemovalContext(
        executor,
        storage,
        database,
        timedelta(seconds=settings.lease_seconds),
        metrics=metrics,
        leases=state.get(LeaseRenewer),
        require_storage=state.get(StorageProbe).require,
        sizes=settings.limits.sizes,
        tracing=state.get(Tracing),
    )


RefinementSlotsDep = Annotated[RefinementSlots, Depends(provided(RefinementSlots))]
RemovalContextDep = Annotated[RemovalContext, Depends(get_removal_context)]
