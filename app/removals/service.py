"""One photo: from the caller's bytes to a stored result. The price is held before the work and given back if it fails."""

import asyncio
import math
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from sqlalchemy import insert
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app.billing import job_charges
from cutout.app.core.errors import JobFailedError, NotFoundError, describe
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.clock import shared_now
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.tables import IdempotencyKey, Job, Status, plain
from cutout.app.jobs import completion, originals
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import write_options
from cutout.app.removals.idempotency import KeyInWork, KeyUsed, add_key, find_key, write_once
from cutout.app.removals.lost_jobs import SERVICE_STOPPED, fail
from cutout.app.removals.refining import Original
from cutout.app.removals.remote import RemoteBackground, RemotePhoto
from cutout.app.removals.request import RemovalContext, RemovalRequest, request_of
from cutout.app.storage.base import StorageError
from cutout.app.stores.service import plan
from cutout.inference.cutout import Cutout
from cutout.inference.imaging.animation import read_animation
from cutout.inference.masked_photo import Source
from cutout.inference.options import Options

log = structlog.get_logger()

# The interval at which a repeated request checks whether the first one has finished.
POLL_SECONDS = 0.1
# A key in work is free again when its lease ends, and most likely much sooner.
LONGEST_RETRY_SECONDS = 5
WRITE_JOB = insert(plain(Job))
NOT_BEGUN = "The database did not answer. Nothing was charged; send the photo again."


class ResultGone(NotFoundError):
    """A removal succeeded and its picture is no longer kept."""

    def __init__(self) -> None:
        super().__init__(
            "The result for this Idempotency-Key is no longer stored. Use a new key to process the photo again."
        )


@dataclass(frozen=True)
class _Reserved:
    """A job that was written for a request, with the pictures of its options, and its photo."""

    job_id: uuid.UUID
    request: RemovalRequest
    photo: Source = field(repr=False)


async def remove_one(
    context: RemovalContext,
    user_id: uuid.UUID,
    photo: bytes | RemotePhoto | Original,
    options: Options,
    key: str | None = None,
    store_url: str | None = None,
    background: RemoteBackground | None = None,
    name: str | None = None,
) -> tuple[Job, bytes]:
    """Remove the background of one photo. Return the job and the picture.

    The job is written and its price held in one transaction. Then the picture is made and stored, with no transaction
    open. Then the job is completed and charged in a second transaction. If any step fails, the price is given back; after
    a crash `fail_lost_jobs` does that.

    A second request with the same `key` is no second removal: it waits a moment for the first one and returns the same.
    Only where the first one failed or was lost, the work is done again. Of what is remote the key covers the URL; a
    repetition does not fetch it, since it may have changed since.

    With a `store_url`, checked by `ResultStores.check`, the result is due there once the job is completed. With an
    `Original` as the photo its result is refined: no network runs. The `name` of the photo's file is written down.

    Raises:
        InsufficientCredits: the user has too few credits and no quota left; no job is written.
        KeyUsed: the key was used for another photo, or with other options.
        KeyInWork: the first request with the key is not finished.
        ResultGone: the removal with this key succeeded and its picture is no longer kept.
        CutoutError: the photo cannot be read, or the engine is overloaded.
        StorageError: the result cannot be stored.
        Exception: what fetching the photo raises; no job is written.

    """
    start = time.perf_counter()
    if background is not None:
        options = replace(options, background=background.stand_in)
    request = request_of(user_id, photo, options, key, store_url, name)
    reserved = await _reserve_or_repeat(context, request, photo, background)
    if not isinstance(reserved, _Reserved):
        return reserved
    job_id = reserved.job_id
    structlog.contextvars.bind_contextvars(job=str(job_id))
    try:
        with context.leases.holding(job_id):
            job, picture = await _make(context, reserved)
    except BaseException as error:
        # Also if the client hung up: this task is being cancelled then, and the price has to be given back all the same.
        await asyncio.shield(_in_thread(context)(abandon_job, context, job_id, error))
        context.metrics.failed(options.tier, context.executor.backend, _outcome(error))
        raise
    context.metrics.completed(options.tier, job.backend or "", time.perf_counter() - start, job.credits)
    return job, picture


async def _reserve_or_repeat(
    context: RemovalContext,
    request: RemovalRequest,
    photo: bytes | RemotePhoto | Original,
    background: RemoteBackground | None,
) -> _Reserved | tuple[Job, bytes]:
    """Fetch what is remote and reserve a job; or return what the first request with the same key made."""
    start = time.perf_counter()
    run = _in_thread(context)
    while True:
        job_id = None if request.key is None else await run(find_first_job, context, request)
        if job_id is None:
            if isinstance(photo, RemotePhoto):
                photo = await photo.fetch(photo.url)
            if background is not None:
                picture = await background.fetch(background.url)
                request = replace(request, options=replace(request.options, background=picture))
                background = None
            source = photo.photo if isinstance(photo, Original) else photo
            job_id, is_new = await run(reserve_job, context, request, source)
            if is_new:
                return _Reserved(job_id, request, source)
        first = await first_result(context, request, job_id, time.perf_counter() - start)
        if first is not None:
            return first
        await asyncio.sleep(POLL_SECONDS)


async def _make(context: RemovalContext, reserved: _Reserved) -> tuple[Job, bytes]:
    """Make the picture of a reserved job. Return the job, completed and charged, and the picture."""
    began, request, job_id = time.perf_counter(), reserved.request, reserved.job_id
    about = {"cutout__job_id": str(job_id), "cutout__tier": request.options.tier.value}
    with context.tracing.removal(**about) as span:
        try:
            if (trace := context.tracing.current()) is not None:
                await asyncio.to_thread(context.executor.carry, job_id, trace)
            cutout = await context.executor.make(job_id, reserved.photo, request.options, request.user_id)
            if cutout is None:  # a worker has stored the picture and completed the job
                made = await to_storage_thread(collect_result, context, job_id)
            else:
                span.add_stages(cutout.laps)
                job = await to_storage_thread(store_result, context, job_id, request, cutout, began)
                made = job, cutout.data
        except BaseException as error:
            span.note(cutout__outcome=_outcome(error))
            span.fail(_outcome(error))
            raise
        span.note(cutout__outcome="completed")
        return made


def _outcome(error: BaseException) -> str:
    return "cancelled" if isinstance(error, asyncio.CancelledError) else describe(error)[0]


def _in_thread(context: RemovalContext) -> Callable[..., Coroutine[Any, Any, Any]]:
    # In queue mode the photo is written to the storage and deleted from there, which has threads of its own.
    return asyncio.to_thread if context.executor.here else to_storage_thread


def find_first_job(context: RemovalContext, request: RemovalRequest) -> uuid.UUID | None:
    """Return the job that the request's key stands for; None where there is none, or it failed.

    Raises:
        KeyUsed: the key was used for another photo, or with other options.

    """

    def find(session: Session) -> uuid.UUID | None:
        known = find_key(session, request.user_id, request.key or "")
        if known is None:
            return None
        job = session.get_one(Job, _job_id_of(known, request))
        at = shared_now(session, context.clock)
        return None if job.status is Status.FAILED or _is_lost(job, context, at) else job.id

    return context.database.run_read_only(find)


async def first_result(
    context: RemovalContext, request: RemovalRequest, job_id: uuid.UUID, waited: float
) -> tuple[Job, bytes] | None:
    """Return what the first request with the key made; None while it is in work and the patience is not used up.

    Raises:
        KeyInWork: it is still in work after `waited` seconds.
        ResultGone: its picture is no longer kept.

    """
    job = await asyncio.to_thread(jobs.find, context.database, request.user_id, job_id)
    if job is not None and job.status is Status.COMPLETED:
        picture = await jobs.stored_picture(context.database, context.storage, job_id, request.user_id)
        if picture is None:
            raise ResultGone
        return job, picture[0]
    if job is not None and waited > context.patience.total_seconds():
        raise KeyInWork(_retry_after(job, context.clock()))
    return None


def reserve_job(context: RemovalContext, request: RemovalRequest, photo: Source) -> tuple[uuid.UUID, bool]:
    """Write a job and hold its price. Return its id and True; or the id of the job that has the key by now, and False.

    Raises:
        InsufficientCredits: the user has too few credits and no quota left.
        KeyUsed: the key was used for another photo, or with other options.
        CutoutError, QueueUnavailable, StorageError: no photo can be accepted now. Nothing is held.

    """
    # Before the transaction, since these may wait for the queue, the storage and the database.
    context.require_storage()
    job_id = uuid.uuid4()
    frames = _frames_of(photo, request.options, context)
    columns = context.executor.enqueue(job_id, photo, request.options) | {"frames": frames}
    try:
        first = write_once(
            context.database,
            request.user_id,
            request.key,
            partial(_write_job, context=context, request=request, job_id=job_id, columns=columns),
        )
    except BaseException as error:
        context.executor.withdraw(job_id)
        # The commit may have succeeded although its answer did not arrive.
        if isinstance(error, OperationalError):
            context.leases.end_later(job_id, DatabaseUnavailableError.code, NOT_BEGUN)
        raise
    if first is None:
        return job_id, True
    context.executor.withdraw(job_id)
    return first, False


def _frames_of(photo: Source, options: Options, context: RemovalContext) -> int | None:
    """Return how many frames of an animation are cut out; None if it is one picture.

    Raises:
        InvalidPhoto: it has too many, or its file cannot be read.

    """
    if not options.all_frames or not isinstance(photo, bytes):
        return None
    animation = read_animation(photo, context.sizes)
    return None if animation is None else animation.frames


def store_result(
    context: RemovalContext, job_id: uuid.UUID, request: RemovalRequest, cutout: Cutout, began: float
) -> Job:
    """Store a picture, then complete and charge its job, so that no completed job lacks its picture. Return the job.

    `began` is the time of `time.perf_counter` when the work on the photo began.

    Raises:
        StorageError: the picture cannot be stored.

    """
    key = jobs.result_key(job_id, cutout.format)
    context.storage.put(key, cutout.data)
    if cutout.masked is not None:
        originals.keep(context.storage, job_id, cutout.masked)
    can_be_opened = cutout.masked is not None or request.original is not None
    written = write_options(request.options) if can_be_opened else None
    milliseconds = round(1000 * (time.perf_counter() - began))
    with context.database.begin() as session:
        job = completion.complete(session, job_id, cutout, milliseconds, options=written)
    if job is None:
        for left in (key, originals.original_key(job_id)):
            context.storage.delete(left)
        raise RuntimeError(f"job {job_id} was ended by another process")
    log.info(
        "Background removed successfully",
        tier=cutout.tier.value,
        job=str(job_id),
        model=cutout.checkpoint,
        backend=cutout.backend,
        ms=milliseconds,
        no_foreground=cutout.no_foreground,
    )
    return job


def collect_result(context: RemovalContext, job_id: uuid.UUID) -> tuple[Job, bytes]:
    """Return a job that a worker has ended, and the picture that it stored.

    Raises:
        JobFailedError: the job failed there.
        StorageError: the picture cannot be read.

    """
    with context.database.read() as session:
        job = session.get_one(Job, job_id)
    if job.status is not Status.COMPLETED:
        raise JobFailedError(job.error_code or "INTERNAL", job.error_detail or "The photo was not processed.")
    picture = context.storage.get(jobs.result_key_of(job))
    if picture is None:
        raise StorageError("The picture was created but cannot be found.")
    return job, picture


def abandon_job(context: RemovalContext, job_id: uuid.UUID, error: BaseException) -> None:
    """End a job that failed and give its price back: now, or as soon as the database answers again."""
    code, detail = describe(error)
    if isinstance(error, OperationalError):  # its own message contains the SQL statement
        code, detail = DatabaseUnavailableError.code, context.database.explain(error)
    try:
        fail(context.database, job_id, code, detail)
    except OperationalError as away:
        log.warning(
            "job not ended; trying again when the database answers", job=str(job_id), detail=str(away.orig)
        )
        context.leases.end_later(job_id, code, detail)
    finally:
        context.executor.withdraw(job_id)


def _write_job(
    session: Session,
    known: IdempotencyKey | None,
    *,
    context: RemovalContext,
    request: RemovalRequest,
    job_id: uuid.UUID,
    columns: Mapping[str, Any],
) -> uuid.UUID | None:
    """Write a job and hold its price; or return the id of the job that the `known` key stands for, unless it failed."""
    at = shared_now(session, context.clock)
    if known is not None:
        first = session.get_one(Job, _job_id_of(known, request), populate_existing=True)
        if _is_lost(first, context, at):
            completion.fail(session, first.id, "INTERNAL", SERVICE_STOPPED)
        elif first.status is not Status.FAILED:
            return first.id
    options, original = request.options, request.original
    is_free = original is not None and original.is_free
    paid_by, price = job_charges.reserve(
        session, request.user_id, job_id, options.tier, at, is_free=is_free, frames=columns["frames"] or 1
    )
    job = {
        "id": job_id,
        "user_id": request.user_id,
        "status": Status.PROCESSING,
        "tier": options.tier,
        "credits": price,
        "paid_by": paid_by,
        "format": options.format.value,
        "lease_until": at + context.lease,
        "created_at": at,
        "has_store": request.store_url is not None,
        "refined_from": None if original is None else original.job_id,
        "name": request.name and request.name[: jobs.LONGEST_NAME],
        **columns,
    }
    session.execute(WRITE_JOB, job)
    if request.store_url is not None:
        plan(session, request.user_id, {job_id: request.store_url}, {}, at)
    if known is not None:
        known.job_id = job_id
    else:
        add_key(session, request.user_id, request.key, request.fingerprint, job_id=job_id, at=at)
    return None


def _job_id_of(known: IdempotencyKey, request: RemovalRequest) -> uuid.UUID:
    if known.fingerprint != request.fingerprint or known.job_id is None:
        raise KeyUsed
    return known.job_id


def _is_lost(job: Job, context: RemovalContext, at: datetime) -> bool:
    """Tell whether the process that worked on a job died. A job of this process is not lost, renewed or not."""
    is_late = job.lease_until is not None and job.lease_until < at
    return job.status is Status.PROCESSING and is_late and job.id not in context.leases.held()


def _retry_after(first: Job, at: datetime) -> int:
    """Return in how many seconds a request whose key is in work may be repeated."""
    left = LONGEST_RETRY_SECONDS if first.lease_until is None else (first.lease_until - at).total_seconds()
    return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(left)))
