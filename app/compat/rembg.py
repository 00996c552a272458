"""The API of rembg's HTTP server: `GET` and `POST /api/remove`."""

import math
import uuid
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from cutout.app.auth.dependencies import RemovingUserDep
from cutout.app.compat.errors import CompatInputError
from cutout.app.compat.fields import Fields, is_absent
from cutout.app.compat.form import BodyReader
from cutout.app.compat.options import rembg_options
from cutout.app.compat.photos import checked_url, fetching
from cutout.app.core.errors import ForbiddenError, ServiceError, shorten
from cutout.app.http.dependencies import ImageFetcherDep, SettingsDep
from cutout.app.removals import service as removals
from cutout.app.removals.dependencies import RemovalContextDep
from cutout.app.removals.remote import RemotePhoto
from cutout.app.removals.request import RemovalContext
from cutout.app.removals.router import picture_headers
from cutout.inference.options import Options

router = APIRouter(prefix="/api", include_in_schema=False)

PHOTO = "file"
# On POST these alone come in the query.
QUERY_ON_POST = ("bgc", "extras")
# Their status for ours where it is another.
STATUSES = {413: 400, 415: 400}
OWN_PAGES = {"", "none", "same-origin"}


@router.get("/remove")
async def remove_from_url(
    request: Request,
    user: RemovingUserDep,
    context: RemovalContextDep,
    fetcher: ImageFetcherDep,
    settings: SettingsDep,
) -> Response:
    """Remove the background of the photo at a URL, as rembg's server does."""
    if settings.auth == "off" and request.headers.get("sec-fetch-site", "") not in OWN_PAGES:
        # An <img> of any web page makes this call, without an Origin.
        raise ForbiddenError("Web pages of other origins may not call this service.")
    fields = Fields(_query(request))
    if "url" not in fields.texts:
        raise CompatInputError("Field required", "missing_url", 422)
    url = checked_url(fields, "url", fetcher)
    photo = RemotePhoto(url, fetching(fetcher, "url", "failed_image_download"))
    return await _remove(context, user.id, photo, rembg_options(fields, settings.compat_tiers))


@router.post("/remove")
async def remove_from_file(
    request: Request, user: RemovingUserDep, context: RemovalContextDep, settings: SettingsDep
) -> Response:
    """Remove the background of a photo in a form, as rembg's server does."""
    sent = await BodyReader(settings.max_upload_bytes, (PHOTO,)).read(request)
    query = {name: text for name, text in _query(request).items() if name in QUERY_ON_POST}
    fields = Fields({name: text for name, text in sent.texts.items() if name not in QUERY_ON_POST} | query)
    if PHOTO not in sent.files:
        raise CompatInputError("Field required", f"missing_{PHOTO}", 422)
    options = rembg_options(fields, settings.compat_tiers)
    return await _remove(context, user.id, sent.files[PHOTO], options)


async def _remove(
    context: RemovalContext, user_id: uuid.UUID, photo: bytes | RemotePhoto, options: Options
) -> Response:
    job, made = await removals.remove_one(context, user_id, photo, options)
    headers = picture_headers(job) | {"X-Credits-Charged": str(job.credits)}
    return Response(made, media_type=options.format.media_type, headers=headers)


def _query(request: Request) -> dict[str, str]:
    return {name: text for name, text in request.query_params.items() if not is_absent(text)}


def rembg_error(error: ServiceError, _request_id: str) -> JSONResponse:
    """Return the response of an error: `{"detail"}`, as FastAPI answers; a list, with status 422, about fields."""
    status = STATUSES.get(error.status, error.status)
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    detail: Any = shorten(error.detail)
    if isinstance(error, CompatInputError):
        kind, _, field = error.theirs.partition("_")
        if kind in ("invalid", "missing") and field != "source":
            status = 422
            detail = [
                {"type": "missing" if kind == "missing" else "value_error", "loc": [field], "msg": detail}
            ]
    return JSONResponse({"detail": detail}, status, headers)
