"""FastAPI dependencies for the queue."""

import asyncio
from typing import Annotated

from fastapi import Depends

from cutout.app.http.openapi import raises
from cutout.app.http.state import provided
from cutout.app.jobs.queue import Queue, QueueUnavailable

QueueDep = Annotated[Queue, Depends(provided(Queue))]


@raises(QueueUnavailable)
async def require_queue(queue: QueueDep) -> None:
    """Check that the queue responds."""
    # In a thread, because the check blocks.
    await asyncio.to_thread(queue.require)
