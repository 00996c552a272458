"""`/api/background-remover/batch`: this version keeps no queue of batches, and says so to whoever may ask."""

import uuid
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response

from app.api.deps import BatchUserDep, get_user
from app.api.problems import tells
from app.errors import Problem

router = APIRouter(
    prefix="/api/background-remover",
    tags=["batches"],
    # No call here succeeds.
    default_response_class=Response,
    responses=tells("QUEUE_UNAVAILABLE"),
)

RETRY_SECONDS = 3600
BatchId = Annotated[uuid.UUID, Path()]


def no_queue() -> Problem:
    return Problem(
        "QUEUE_UNAVAILABLE",
        "This version of the service has no queue of batches. Send the photos one by one to"
        " /api/background-remover/remove.",
        # Of a batch's body nothing is read, so the connection cannot be used again.
        {"Retry-After": str(RETRY_SECONDS), "Connection": "close"},
    )


@router.post("/batch", status_code=503)
async def submit_batch(_: BatchUserDep) -> None:
    """Refuse a batch, without reading it: there is no queue for it."""
    raise no_queue()


@router.get("/batch", status_code=503, dependencies=[Depends(get_user)])
async def get_batches() -> None:
    """Say that there is no queue, and so no batches to list."""
    raise no_queue()


@router.get("/batch/{batch_id}", summary="Get Batch", status_code=503, dependencies=[Depends(get_user)])
@router.get(
    "/batch/{batch_id}/events", summary="Get Batch Events", status_code=503, dependencies=[Depends(get_user)]
)
@router.get(
    "/batch/{batch_id}/download", summary="Download Batch", status_code=503, dependencies=[Depends(get_user)]
)
@router.delete("/batch/{batch_id}", summary="Cancel Batch", status_code=503, dependencies=[Depends(get_user)])
async def refuse(batch_id: BatchId) -> None:
    """Say that there is no queue, and so no batch by any id."""
    raise no_queue()
