"""The page at `/`."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

import app.web

STATIC = Path(app.web.__file__).parent / "static"

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """Return the page: drop a photo, see before and after."""
    return FileResponse(STATIC / "index.html")
