"""What removals need, as endpoints take it."""

from datetime import timedelta
from typing import Annotated

from fastapi import Depends, Request

from cutout.app.core.errors import ModelUnavailableError
from cutout.app.http.dependencies import DatabaseDep, MetricsDep, SettingsDep, StorageDep
from cutout.app.http.openapi import raises
from cutout.app.http.state import state_of
from cutout.app.jobs.lease_renewal import Leases
from cutout.app.removals.executors import Hands
from cutout.app.removals.service import Workplace
from cutout.app.storage.probe import StorageProbe


@raises(ModelUnavailableError)
async def get_hands(request: Request) -> Hands:
    """Return what makes pictures, once the models are loaded."""
    hands = state_of(request.app).find(Hands)
    if hands is None:
        raise ModelUnavailableError("The models are still loading. Try again in a moment.")
    return hands


HandsDep = Annotated[Hands, Depends(get_hands)]


async def get_workplace(
    request: Request,
    hands: HandsDep,
    storage: StorageDep,
    database: DatabaseDep,
    settings: SettingsDep,
    metrics: MetricsDep,
) -> Workplace:
    state = state_of(request.app)
    return Workplace(
        hands,
        storage,
        database,
        timedelta(seconds=settings.lease_seconds),
        metrics=metrics,
        leases=state.get(Leases),
        require_storage=state.get(StorageProbe).require,
    )


WorkplaceDep = Annotated[Workplace, Depends(get_workplace)]
