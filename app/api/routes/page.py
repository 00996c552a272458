"""The page at `/`."""

from pathlib import Path
from string import Template

from fastapi import APIRouter
from fastapi.responses import HTMLResponse

import app.web
from app.api.deps import SettingsDep
from app.services.pricing import LARGEST_BATCH
from inference.photo import SUFFIXES

STATIC = Path(app.web.__file__).parent / "static"
# By their types, too: what has another extension, or none.
TYPES = [f"image/{kind}" for kind in ("jpeg", "png", "webp", "avif", "heic", "heif", "tiff", "bmp", "gif")]

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index(settings: SettingsDep) -> HTMLResponse:
    """Return the page: drop a photo, see before and after; or many, as a batch. It knows what may be sent."""
    page = Template((STATIC / "index.html").read_text()).substitute(
        accept=",".join([*TYPES, *sorted(SUFFIXES)]),
        most_images=LARGEST_BATCH,
        photo_mb=settings.max_upload_mb,
        batch_mb=settings.max_batch_mb,
    )
    return HTMLResponse(page)
