"""remove.bg's API: `POST /v1.0/removebg`, `GET /v1.0/account`, `POST /v1.0/improve`."""

import asyncio
import uuid
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from starlette.requests import ClientDisconnect

from cutout.app.auth.dependencies import RemovingUserDep, UserDep
from cutout.app.compat.account import account_of
from cutout.app.compat.errors import CompatInputError
from cutout.app.compat.fields import Fields
from cutout.app.compat.form import BodyReader
from cutout.app.compat.options import remove_bg_options
from cutout.app.compat.photos import checked_url, fetching, json_with_picture, photo_of, wants_json
from cutout.app.compat.remove_bg_errors import rate_limit_headers
from cutout.app.core.errors import (
    InvalidBackgroundError,
    InvalidInputError,
    JobFailedError,
    NotFoundError,
    describe,
)
from cutout.app.db.tables import Job, now
from cutout.app.http.dependencies import DatabaseDep, ImageFetcherDep, RateLimitsDep, SettingsDep
from cutout.app.http.schemas import NO_NUL
from cutout.app.net.image_fetcher import ImageFetcher
from cutout.app.ratelimit.limits import Kind
from cutout.app.removals import service as removals
from cutout.app.removals.dependencies import RemovalContextDep
from cutout.app.removals.remote import RemoteBackground
from cutout.app.removals.router import picture_headers
from cutout.inference.errors import CutoutError
from cutout.inference.imaging.backgrounds import Picture
from cutout.inference.imaging.encode import Format

router = APIRouter(prefix="/v1.0", include_in_schema=False)

PHOTOS = ("image_file", "image_file_b64")
PHOTO_URL = "image_url"
BACKGROUND_URL, BACKGROUND_FILE = "bg_image_url", "bg_image_file"


@router.post("/removebg")
async def remove_background(
    request: Request,
    user: RemovingUserDep,
    context: RemovalContextDep,
    fetcher: ImageFetcherDep,
    settings: SettingsDep,
    rate_limits: RateLimitsDep,
    accept: Annotated[str, Header()] = "",
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, pattern=NO_NUL)] = None,
) -> Response:
    """Remove the background of one photo, as remove.bg does."""
    limit, state = rate_limits.limit_of(Kind.REMOVE), await rate_limits.state(Kind.REMOVE, str(user.id))
    reader = BodyReader(settings.max_upload_bytes, ("image_file", BACKGROUND_FILE), ("image_file_b64",))
    fields = await reader.read(request)
    photo = photo_of(fields, PHOTOS, PHOTO_URL, fetcher)
    options = remove_bg_options(fields, settings.compat_tiers, all_pixels=settings.limits.sizes.pixels)
    remote = _remote_background(fields, fetcher)
    if options.mask_only:  # it has no background
        remote = None
    elif BACKGROUND_FILE in fields.files:
        # Its fingerprint takes a while.
        picture = await asyncio.to_thread(Picture.of, fields.files[BACKGROUND_FILE])
        options = replace(options, background=picture)
    try:
        job, made = await removals.remove_one(
            context, user.id, photo, options, idempotency_key, background=remote
        )
    except (CutoutError, JobFailedError) as error:
        raise _their_error(error, fields) from None
    headers = _headers(job) | rate_limit_headers(limit.calls if limit else None, state)
    if fields.texts.get("type_level", "").strip().lower() != "none":
        headers["X-Type"] = "other"
    if not wants_json(accept):
        return Response(made, media_type=Format(job.format).media_type, headers=headers)
    document = {"data": {f"foreground_{side}": pixels for side, pixels in _foreground(job).items()}}
    body = await json_with_picture(document, "result_b64", made)
    return Response(body, media_type="application/json", headers=headers)


@router.get("/account")
async def get_account(user: UserDep, database: DatabaseDep) -> dict[str, Any]:
    """Return the caller's credits, as remove.bg does. Clients of it break on any other key."""
    account = await asyncio.to_thread(database.run_read_only, account_of, user.id, now())
    balance = account.balance
    credits = {"total": balance, "subscription": 0, "payg": balance, "enterprise": 0}
    api = {"free_calls": account.removals_left, "sizes": "all"}
    return {"data": {"attributes": {"credits": credits, "api": api}}}


@router.post("/improve")
async def improve(request: Request, _: UserDep, settings: SettingsDep) -> dict[str, str]:
    """Answer as remove.bg does to a picture for its training. Nothing of it is kept."""
    if not settings.compat_improve:
        raise NotFoundError("This service takes no pictures to learn from (CUTOUT_COMPAT_IMPROVE).")
    # A client that is still sending would not read an answer, and one that has hung up reads none.
    with suppress(ClientDisconnect):
        async for _chunk in request.stream():
            pass
    return {"id": str(uuid.uuid4())}


def _remote_background(fields: Fields, fetcher: ImageFetcher) -> RemoteBackground | None:
    """Return the picture for the background that has to be fetched; None without one.

    Raises:
        CompatInputError: there are two backgrounds, or the URL is malformed.

    """
    sent = [name for name in ("bg_color", BACKGROUND_URL) if name in fields.texts]
    sent += [BACKGROUND_FILE] if BACKGROUND_FILE in fields.files else []
    if len(sent) > 1 or BACKGROUND_FILE in fields.repeated:
        raise CompatInputError("Send only one background.", "multiple_bg_sources")
    if sent != [BACKGROUND_URL]:
        return None
    get = fetching(fetcher, BACKGROUND_URL, "failed_bg_download")

    async def fetch(url: str) -> Picture:
        return await asyncio.to_thread(Picture.of, await get(url))

    return RemoteBackground(checked_url(fields, BACKGROUND_URL, fetcher), fetch)


def _their_error(error: CutoutError | JobFailedError, fields: Fields) -> Exception:
    """Return the error to raise for one of the engine, here or in a worker."""
    code, detail = describe(error)
    if code == InvalidBackgroundError.code and BACKGROUND_FILE in fields.files:  # no download has failed
        return CompatInputError(detail, "failed_to_read_image")
    if code == InvalidInputError.code:  # the options were checked: it is the size of the result
        return CompatInputError(detail, "invalid_dimensions")
    return error


def _headers(job: Job) -> dict[str, str]:
    """Say of a job what remove.bg says, and which model served it."""
    foreground = {f"X-Foreground-{side.capitalize()}": str(n) for side, n in _foreground(job).items()}
    return {
        **picture_headers(job),
        "X-Width": str(job.width),
        "X-Height": str(job.height),
        "X-Credits-Charged": str(job.credits),
        **foreground,
    }


def _foreground(job: Job) -> dict[str, int]:
    """Return the subject's box. Jobs of an earlier version of this service have none."""
    whole = {"left": 0, "top": 0, "width": job.width or 0, "height": job.height or 0}
    box = job.subject or whole
    return {side: int(box[side]) for side in ("top", "left", "width", "height")}
