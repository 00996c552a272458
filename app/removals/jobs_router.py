"""`/api/background-remover/jobs`: jobs, their pictures and their photos."""

import asyncio
import uuid
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from cutout.app.auth.auth_first_route import AuthFirstRoute
from cutout.app.auth.dependencies import ReaderDep, SecretDep, UserDep
from cutout.app.core.errors import NotFoundError, OverloadedError
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.tables import Status
from cutout.app.http.dependencies import DatabaseDep, SettingsDep, StorageDep
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL, UtcTime
from cutout.app.http.security_headers import KEPT_BY_ITS_USER
from cutout.app.jobs import photos, thumbnails
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.schemas import JobDetails, JobInfo, Jobs
from cutout.app.jobs.urls import API, photo_url, urls_of
from cutout.app.stores.dependencies import ResultStoresDep
from cutout.inference.tiers import Tier

router = APIRouter(prefix=API, tags=["background remover"], route_class=AuthFirstRoute)

LONGEST_SEARCH = 200


@router.get("/jobs")
async def get_jobs(
    user: UserDep,
    database: DatabaseDep,
    stores: ResultStoresDep,
    settings: SettingsDep,
    secret: SecretDep,
    status: Annotated[list[Status] | None, Query(max_length=len(Status))] = None,
    tier: Annotated[list[Tier] | None, Query(max_length=len(Tier))] = None,
    batch_id: Annotated[uuid.UUID | None, Query(alias="batchId")] = None,
    since: UtcTime | None = None,
    until: UtcTime | None = None,
    needs_review: Annotated[bool | None, Query(alias="needsReview")] = None,
    search: Annotated[str, Query(max_length=LONGEST_SEARCH, pattern=NO_NUL)] = "",
    latest: bool = False,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Jobs:
    """List the caller's jobs, the newest first.

    `status` and `tier` may be given several times. `search` is a part of the photo's file name. With `latest` each
    photo is listed once, with the newest of its result and the refinements of it.
    """
    wanted = jobs.Wanted(
        statuses=status or (),
        tiers=tier or (),
        batch_id=batch_id,
        since=since,
        until=until,
        needs_review=needs_review,
        search=search,
        latest=latest,
    )
    found, more = await asyncio.to_thread(jobs.page, database, user.id, wanted, limit, offset)
    stored = await asyncio.to_thread(stores.infos, found)
    return Jobs(
        jobs=[JobInfo.of(job, urls_of(job, secret, settings.kept), stored.get(job.id)) for job in found],
        more=more,
    )


@router.get("/jobs/{job_id}", responses=error_responses(NotFoundError))
async def get_job(
    job_id: uuid.UUID,
    user: UserDep,
    database: DatabaseDep,
    storage: StorageDep,
    stores: ResultStoresDep,
    settings: SettingsDep,
    secret: SecretDep,
) -> JobDetails:
    """Return one of the caller's jobs."""
    job = await asyncio.to_thread(jobs.find, database, user.id, job_id)
    if job is None:
        raise NotFoundError("You have no job with this id.")
    stored = await asyncio.to_thread(stores.infos, [job])
    photo = await to_storage_thread(photos.look_up, database, storage, job)
    return JobDetails.with_photo(
        JobInfo.of(job, urls_of(job, secret, settings.kept), stored.get(job.id)),
        photo_url(job.id, secret, settings.kept) if photo.is_kept else None,
        in_place=photo.is_kept and photo.is_in_place,
        corrected=photo.is_corrected,
    )


@router.head("/jobs/{job_id}/image", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/image",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The picture"},
        **error_responses(NotFoundError),
    },
    openapi_extra={"security": [{}]},
)
async def get_job_image(
    job_id: uuid.UUID, request: Request, database: DatabaseDep, storage: StorageDep, owner: ReaderDep
) -> Response:
    """Return the picture of a job: to its owner, or by the signed address that the job names."""
    stored = await jobs.stored_picture(database, storage, job_id, owner)
    if stored is None:
        raise NotFoundError("There is no picture with this id; it may have expired.")
    data, file_format = stored
    return _file(request, data, file_format.media_type)


@router.head("/jobs/{job_id}/thumbnail", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/thumbnail",
    response_class=Response,
    responses={
        200: {"content": {"image/webp": {}}, "description": "The thumbnail"},
        **error_responses(NotFoundError, OverloadedError),
    },
    openapi_extra={"security": [{}]},
)
async def get_job_thumbnail(
    job_id: uuid.UUID, request: Request, database: DatabaseDep, storage: StorageDep, owner: ReaderDep
) -> Response:
    """Return a small WebP of a job's picture, of at most 320 × 320 pixels: to its owner, or by the signed address that
    the job names.
    """
    data = await thumbnails.thumbnail(database, storage, job_id, owner)
    if data is None:
        raise NotFoundError("There is no picture with this id; it may have expired.")
    return _file(request, data, "image/webp")


@router.head("/jobs/{job_id}/photo", include_in_schema=False)
@router.get(
    "/jobs/{job_id}/photo",
    response_class=Response,
    responses={
        200: {"content": {"image/*": {}}, "description": "The photo"},
        **error_responses(NotFoundError, OverloadedError),
    },
    openapi_extra={"security": [{}]},
)
async def get_job_photo(
    job_id: uuid.UUID,
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    settings: SettingsDep,
    owner: ReaderDep,
) -> Response:
    """Return the photo of a job, upright and in a format that browsers show: to its owner, or by the signed address
    that the job names.
    """
    found = await photos.photo(database, storage, job_id, owner, settings.limits.sizes)
    if found is None:
        raise NotFoundError("The photo of this job is not kept, or no longer.")
    return _file(request, *found)


def _file(request: Request, data: bytes, media_type: str) -> Response:
    headers = KEPT_BY_ITS_USER | {"Content-Length": str(len(data))}
    return Response(b"" if request.method == "HEAD" else data, media_type=media_type, headers=headers)
