"""Whether pictures can be made here, and with what."""

import asyncio

from fastapi import APIRouter, Response

import app
from app.api.deps import DatabaseDep, EngineDep
from app.api.schemas import Health, TierInfo
from app.db import schema

router = APIRouter(prefix="/api", tags=["health"])


@router.get("/health", responses={503: {"model": Health}})
async def health(engine: EngineDep, database: DatabaseDep, response: Response) -> Health:
    """Answer 200 once a picture can really be made, 503 until then, and while the database is away."""
    revision = await asyncio.to_thread(schema.reachable_revision, database)
    if revision is None:
        response.status_code = 503
    return Health(
        status="ok" if revision else "degraded",
        version=app.__version__,
        schema_revision=revision,
        device=engine.device.type,
        tiers=TierInfo.by_tier(engine),
    )
