"""Photoroom's API: `POST /v1/segment`."""

import math
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import JSONResponse

from cutout.app.auth.dependencies import RemovingUserDep
from cutout.app.compat.form import BodyReader
from cutout.app.compat.options import photoroom_options
from cutout.app.compat.photos import json_with_picture, photo_of, wants_json
from cutout.app.compat.remove_bg_errors import their_code
from cutout.app.core.errors import ServiceError, shorten
from cutout.app.http.dependencies import ImageFetcherDep, SettingsDep
from cutout.app.http.schemas import NO_NUL
from cutout.app.removals import service as removals
from cutout.app.removals.dependencies import RemovalContextDep
from cutout.app.removals.router import picture_headers
from cutout.inference.imaging.encode import Format

router = APIRouter(prefix="/v1", include_in_schema=False)


@router.post("/segment")
async def segment(
    request: Request,
    user: RemovingUserDep,
    context: RemovalContextDep,
    fetcher: ImageFetcherDep,
    settings: SettingsDep,
    accept: Annotated[str, Header()] = "",
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, pattern=NO_NUL)] = None,
) -> Response:
    """Remove the background of one photo, as Photoroom does."""
    reader = BodyReader(settings.max_upload_bytes, ("image_file",), ("image_file_b64",))
    fields = await reader.read(request)
    photo = photo_of(fields, ("image_file", "image_file_b64"), "image_url", fetcher)
    options = photoroom_options(fields, settings.compat_tiers, all_pixels=settings.limits.sizes.pixels)
    job, made = await removals.remove_one(context, user.id, photo, options, idempotency_key)
    headers = picture_headers(job) | {
        "X-Uncertainty-Score": f"{job.uncertainty or 0:g}",
        "X-Credits-Charged": str(job.credits),
    }
    if not wants_json(accept):
        return Response(made, media_type=Format(job.format).media_type, headers=headers)
    body = await json_with_picture({}, "base64img", made)
    return Response(body, media_type="application/json", headers=headers)


def photoroom_error(error: ServiceError, _request_id: str) -> JSONResponse:
    """Return the response of an error: `{"detail", "status_code", "type"}`."""
    status, kind = their_code(error)
    headers = {name: value for name, value in error.headers.items() if name.lower() == "allow"}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    body = {"detail": shorten(error.detail), "status_code": status, "type": kind}
    return JSONResponse(body, status, headers)
