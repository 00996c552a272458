"""The outbox as a FastAPI dependency."""

from typing import Annotated

from fastapi import Depends

from cutout.app.http.state import provided
from cutout.app.notifications.outbox import Outbox

OutboxDep = Annotated[Outbox, Depends(provided(Outbox))]
