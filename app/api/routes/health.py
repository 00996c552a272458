"""Whether pictures can be made here, and with what."""

import asyncio

from fastapi import APIRouter, Response

import app
from app.api.deps import BacklogDep, DatabaseDep, HandsDep
from app.api.schemas import Health, QueueState, RemoteState, TierInfo, Worker
from app.db import schema
from app.db.session import Database
from app.services.backlog import Backlog

router = APIRouter(prefix="/api", tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
async def health(hands: HandsDep, database: DatabaseDep, backlog: BacklogDep, response: Response) -> Health:
    """Answer 200 once a picture can really be made, 503 until then, and while the database is away or networks elsewhere
    have failed so often that they are left alone.

    What `queue` and `workers` say changes nothing of that: they are for batches.
    """
    device, tiers = await asyncio.to_thread(hands.serving)
    revision, queue, workers = await asyncio.to_thread(look, database, backlog)
    breaker = hands.breaker()
    remote = None if breaker is None else RemoteState.of(breaker)
    able = revision is not None and (remote is None or remote.breaker != "open")
    if not able:
        response.status_code = 503
    return Health(
        status="ok" if able else "degraded",
        version=app.__version__,
        schema_revision=revision,
        device=device,
        tiers=TierInfo.by_tier(tiers),
        remote=remote,
        queue=queue,
        workers=workers,
    )


def look(database: Database, backlog: Backlog) -> tuple[str | None, QueueState | None, list[Worker]]:
    """Return the database's revision, what waits, and who is alive."""
    revision = schema.reachable_revision(database)
    if revision is None or not backlog.is_kept:
        return revision, None, []
    alive, waiting = backlog.workers(), backlog.waiting()
    queue = QueueState(answers=alive is not None, waiting=waiting.photos, batches=waiting.batches)
    return revision, queue, [Worker.of(worker) for worker in alive or ()]
