"""The outbox, as endpoints take it."""

from typing import Annotated

from fastapi import Depends

from cutout.app.http.state import provided
from cutout.app.notifications.outbox import Outbox

OutboxDep = Annotated[Outbox, Depends(provided(Outbox))]
