"""Whether pictures can be made here, and with what."""

from fastapi import APIRouter

import app
from app.api.deps import EngineDep
from app.api.schemas import Health, TierInfo

router = APIRouter(prefix="/api", tags=["health"])


@router.get("/health")
async def health(engine: EngineDep) -> Health:
    """Answer 200 once a picture can really be made, 503 until then."""
    device = next(iter(engine.serving.values())).runner.device.type
    return Health(status="ok", version=app.__version__, device=device, tiers=TierInfo.by_tier(engine))
