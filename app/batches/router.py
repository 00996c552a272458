"""`/api/background-remover/batch`: submit, follow, cancel and download batches of photos."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cutout.app.auth.dependencies import BatchUserDep, ReaderDep, SecretDep, UserDep, get_caller
from cutout.app.auth.signed_urls import ServiceSecret
from cutout.app.batches import progress as watching
from cutout.app.batches import service as batches
from cutout.app.batches.form import Fields, Funds, describe_form, read_batch
from cutout.app.batches.schemas import (
    BatchAccepted,
    Batches,
    BatchInfo,
    BatchPhoto,
    BatchSummary,
    ChangedPhotos,
    ProgressInfo,
    price_of,
)
from cutout.app.batches.service import WrongBatchSize
from cutout.app.batches.upload import receiving
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.config.settings import Settings
from cutout.app.core.errors import (
    BodyTooLargeError,
    BodyTooSlowError,
    ConflictError,
    ImageTooLargeError,
    InvalidBackgroundError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
)
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.tables import Batch, now
from cutout.app.http.backgrounds import fetch_background
from cutout.app.http.dependencies import (
    DatabaseDep,
    ImageFetcherDep,
    PresetsDep,
    RateLimitsDep,
    SettingsDep,
    ShutdownDep,
    StorageDep,
    TracingDep,
)
from cutout.app.http.openapi import error_responses
from cutout.app.http.schemas import NO_NUL
from cutout.app.http.security_headers import KEPT_BY_ITS_USER
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.dependencies import QueueDep, require_queue
from cutout.app.jobs.leases import Line
from cutout.app.jobs.urls import JobUrls, archive_url
from cutout.app.notifications.dependencies import OutboxDep
from cutout.app.notifications.webhook import webhook_secret
from cutout.app.ratelimit.limits import Kind
from cutout.app.stores.dependencies import ResultStoresDep

router = APIRouter(prefix="/api/background-remover", tags=["batches"])

# Reconnection delay of a browser's EventSource, in milliseconds.
RECONNECT_MS = 2000
RANGE = re.compile("bytes=([0-9]{1,18})-([0-9]{1,18})?")
NO_BATCH = "You have no batch with this id."


@router.post(
    "/batch",
    status_code=202,
    # Checked before the body is read and before the call counts towards the rate limit.
    dependencies=[Depends(get_caller), Depends(require_queue)],
    responses=error_responses(
        InvalidInputError,
        InvalidBackgroundError,
        WrongBatchSize,
        InsufficientCredits,
        BodyTooSlowError,
        ConflictError,
        ImageTooLargeError,
        BodyTooLargeError,
        OverloadedError,
    ),
    openapi_extra={
        "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": describe_form()}}}
    },
)
async def submit_batch(
    request: Request,
    user: BatchUserDep,
    database: DatabaseDep,
    storage: StorageDep,
    queue: QueueDep,
    outbox: OutboxDep,
    stores: ResultStoresDep,
    fetcher: ImageFetcherDep,
    presets: PresetsDep,
    settings: SettingsDep,
    secret: SecretDep,
    rate_limits: RateLimitsDep,
    tracing: TracingDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255, pattern=NO_NUL)] = None,
) -> BatchAccepted:
    """Submit a batch of photos for processing in the background.

    The price, with the volume discount subtracted, is held immediately; when the batch ends, the credits of photos that
    failed are returned. A rejected request costs nothing, stores nothing and does not count towards the hourly limit of
    batches. The balance is checked before the photos are read, against the price of the cheapest batch, and again while
    they arrive. A request with the same `Idempotency-Key`, photos and options returns the existing batch.
    """
    limit = rate_limits.limit_of(Kind.BATCH)
    with rate_limits.counting_refusals():
        balance = await asyncio.to_thread(
            database.run_read_only, batches.check_ahead, user.id, idempotency_key, limit, now()
        )
    funds = None if balance is None else Funds(database, user.id, balance)
    async with receiving(storage) as upload:
        check_store = partial(stores.check, user=user, in_batch=True)
        fields, sizes = Fields(outbox, user.email, presets, check_store), settings.limits.sizes
        form = await read_batch(request, upload, fields, funds, settings.max_upload_bytes, sizes)
        if form.background_image_url is not None:
            await upload.add_background(await fetch_background(form.background_image_url, fetcher, sizes))
        wanted = form.to_request(presets, upload.background)
        await stores.require_public(wanted.store_urls)
        # Read before the batch is submitted: nothing may fail after that.
        each = await asyncio.to_thread(database.run_read_only, batches.seconds_each, form.tier)
        if (trace := tracing.current()) is not None:
            await asyncio.to_thread(queue.keep_trace, upload.batch_id, trace)
        with rate_limits.counting_refusals():
            batch = await upload.submit(database, queue, user.id, wanted, idempotency_key, limit)
    status_url = f"{secret.prefix}{router.prefix}/batch/{batch.id}"
    return BatchAccepted(
        batch_id=batch.id,
        status=batch.status,
        price=price_of(batch),
        estimated_seconds=None if each is None else round(each * batch.images),
        status_url=status_url,
        events_url=f"{status_url}/events",
        webhook_secret=webhook_secret(secret, user.id) if batch.webhook_url else None,
    )


@router.get("/batch")
async def get_batches(
    user: UserDep,
    database: DatabaseDep,
    settings: SettingsDep,
    secret: SecretDep,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    offset: Annotated[int, Query(ge=0, le=1_000_000)] = 0,
) -> Batches:
    """List your batches, newest first."""
    at = now()
    found = await asyncio.to_thread(database.run_read_only, batches.page, user.id, limit, offset)
    return Batches(
        batches=[
            BatchSummary.of(batch, progress, archive_url(batch, secret, settings.kept, at), at)
            for batch, progress in found
        ]
    )


@router.get("/batch/{batch_id}", responses=error_responses(NotFoundError))
async def get_batch(
    batch_id: uuid.UUID, user: UserDep, database: DatabaseDep, settings: SettingsDep, secret: SecretDep
) -> BatchInfo:
    """Return one of your batches, with all of its photos."""
    view = await asyncio.to_thread(database.run_read_only, watching.view, user.id, batch_id)
    return describe(view, secret, settings)


async def own_batch(batch_id: uuid.UUID, user: UserDep, database: DatabaseDep) -> Batch:
    """Return one of the user's batches."""
    batch = await asyncio.to_thread(database.run_read_only, batches.find, user.id, batch_id)
    if batch is None:
        raise NotFoundError(NO_BATCH)
    return batch


@router.get(
    "/batch/{batch_id}/events", response_class=EventSourceResponse, responses=error_responses(NotFoundError)
)
async def get_batch_events(
    batch: Annotated[Batch, Depends(own_batch)],
    database: DatabaseDep,
    settings: SettingsDep,
    secret: SecretDep,
    stopping: ShutdownDep,
    last_event_id: Annotated[
        str | None, Header(description="the `id` of the last `photos` event received")
    ] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Stream the progress of a batch as server-sent events.

    A `photos` event tells of the photos whose status has changed, a `progress` event of the batch as a whole: both at
    first and at each change. An `end` event follows when the batch has finished, with the same JSON as `progress`. The
    stream closes after `end`, or when the service shuts down. A client that reconnects receives the current progress
    first, and the photos that have changed since the event in its `Last-Event-ID`: without one, all that do not wait.
    """
    urls_of = partial(JobUrls.of, secret=secret, kept=settings.kept)
    async for change in watching.watch(database, batch.id, last_event_id or "", stopping):
        if change.photos:
            photos = ChangedPhotos(photos=[BatchPhoto.of(photo, urls_of) for photo in change.photos])
            data = photos.model_dump_json(by_alias=True, exclude={"photos": {"__all__": {"store"}}})
            yield ServerSentEvent(event="photos", raw_data=data, id=change.now.photos)
        told = ProgressInfo.told(change.now.status, change.now.progress, change.now.started_at, now())
        data = told.model_dump_json(by_alias=True)
        yield ServerSentEvent(event="progress", raw_data=data, retry=RECONNECT_MS)
        if change.now.finished_at is not None:
            yield ServerSentEvent(event="end", raw_data=data)


@router.head("/batch/{batch_id}/download", include_in_schema=False)
@router.get(
    "/batch/{batch_id}/download",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"application/zip": {}}, "description": "The ZIP archive"},
        206: {
            "content": {"application/zip": {}},
            "description": "The part of the archive that `Range` requests",
        },
        **error_responses(NotFoundError),
    },
    openapi_extra={"security": [{}]},
)
async def download_batch(
    batch_id: uuid.UUID,
    request: Request,
    database: DatabaseDep,
    storage: StorageDep,
    owner: ReaderDep,
    wanted: Annotated[str | None, Header(alias="Range")] = None,
    if_range: Annotated[str | None, Header()] = None,
) -> Response:
    """Download the results of a batch as a ZIP archive.

    Accessible to the owner of the batch, or to anyone with its signed URL (`zipUrl`). To resume an interrupted
    download, send a `Range` header with the first byte that is missing.
    """
    if request.method == "HEAD":
        wanted = None  # RFC 9110 defines Range for GET only
    batch = await asyncio.to_thread(database.run_read_only, batches.find, owner, batch_id)
    if batch is None:
        raise NotFoundError(NO_BATCH)
    if batch.finished_at is None:
        raise NotFoundError("This batch has not finished yet. Its ZIP will be available when it has.")
    if batch.zip_bytes is None:
        raise NotFoundError(
            "No photo in this batch succeeded, so there is no ZIP. See the batch for the reasons."
        )
    # The archive is written once and never changes, so the id identifies its content.
    tag = f'"{batch_id}"'
    start = read_range(wanted, batch.zip_bytes) if if_range in (None, tag) else 0
    found = await to_storage_thread(storage.stream, jobs.archive_key(batch_id), start)
    if found is None:
        raise NotFoundError("The ZIP is no longer available: results are kept for a limited time.")
    size, chunks = found
    headers = {
        "Content-Length": str(size - start),
        "Content-Disposition": f'attachment; filename="cutout-{str(batch_id)[:8]}.zip"',
        "Accept-Ranges": "bytes",
        "ETag": tag,
        **KEPT_BY_ITS_USER,
    }
    if start:
        headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
    if request.method == "HEAD":
        return Response(headers=headers, media_type="application/zip")
    return StreamingResponse(chunks, 206 if start else 200, headers, media_type="application/zip")


@router.delete("/batch/{batch_id}", responses=error_responses(NotFoundError, ConflictError))
async def cancel_batch(
    batch_id: uuid.UUID,
    user: UserDep,
    database: DatabaseDep,
    queue: QueueDep,
    settings: SettingsDep,
    secret: SecretDep,
) -> BatchInfo:
    """Cancel a batch. Photos that are not done are dropped at no charge; finished ones are packed into the ZIP.

    Cancelling again changes nothing; once the batch has finished, the response is 409.
    """

    def cancel() -> watching.BatchView | None:
        with database.begin() as session:
            batch = batches.find(session, user.id, batch_id)
            if batch is None:
                return None
            if not batches.cancel(session, batch, now()) and batch.finished_at is not None:
                raise ConflictError("This batch has already finished, so it cannot be cancelled.")
            view = watching.view(session, user.id, batch_id)
        # A worker packs the finished photos.
        queue.notify_workers(Line.BATCH)
        return view

    return describe(await asyncio.to_thread(cancel), secret, settings)


def describe(view: watching.BatchView | None, secret: ServiceSecret, settings: Settings) -> BatchInfo:
    """Return the response for a batch with all of its photos.

    Raises:
        NotFoundError: `view` is None, as the user has no such batch.

    """
    if view is None:
        raise NotFoundError(NO_BATCH)
    at = now()
    urls_of = partial(JobUrls.of, secret=secret, kept=settings.kept)
    return BatchInfo.of_view(view, archive_url(view.batch, secret, settings.kept, at), at, urls_of)


def read_range(wanted: str | None, size: int) -> int:
    """Return the first byte that a `Range` header requests, if it asks for the rest of the file from there.

    Every other range returns 0, which means the whole file, as HTTP allows: several parts, suffix ranges, or a range
    that ends early or starts past the end.
    """
    found = RANGE.fullmatch(wanted or "")
    if found is None:
        return 0
    start, last = int(found[1]), int(found[2] or size - 1)
    return start if start < size <= last + 1 else 0
