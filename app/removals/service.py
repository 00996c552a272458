"""One photo: from the caller's bytes to a stored result, paid before the work and given back where it fails."""

import asyncio
import hashlib
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import structlog
from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from cutout.app.billing import job_charges
from cutout.app.core.errors import ConflictError, NotFoundError, describe
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.outages import DatabaseUnavailableError
from cutout.app.db.session import Database
from cutout.app.db.tables import IdempotencyKey, Job, Status, now, plain
from cutout.app.jobs import completion
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.observability.metrics import Metrics
from cutout.app.removals.executors import RemovalExecutor
from cutout.app.storage.base import Storage
from cutout.inference.options import Options

log = structlog.get_logger()

# How often a call looks whether the first one with its key is done, and for how long.
ASK_AGAIN_SECONDS = 0.1
PATIENCE = timedelta(seconds=2)
# A key in work is free again when its lease ends, and most likely much sooner.
LONGEST_RETRY_SECONDS = 5
WRITE_JOB = insert(plain(Job))
NOT_BEGUN = "The database did not answer. Nothing was charged; send the photo again."
LOST = "The service stopped while it worked on this photo. Nothing was charged; send it again."


class KeyUsed(ConflictError):
    """A caller's key stands for another request already."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another photo or other options. Take a new one.")


class KeyInWork(ConflictError):
    """The first call with a caller's key is not done; it may be asked again in `retry_after` whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "The first call with this Idempotency-Key is still in work. Nothing is charged twice; send the same again in a"
            " moment.",
            retry_after=retry_after,
        )


class ResultGone(NotFoundError):
    """A removal was done and its picture is no longer kept."""

    def __init__(self) -> None:
        super().__init__(
            "The picture of this Idempotency-Key is no longer kept. To make it again, take a new key."
        )


class _NotHereYet(Exception):
    """A photo has to be fetched first."""


@dataclass(frozen=True)
class RemovalContext:
    """What a removal needs. The lease of a job that this process works on is `lease` long, and renewed through `leases`;
    a call whose key is in work already waits for the first one for `patience`. `require_storage` raises StorageError
    where it is known that no result can be kept.
    """

    executor: RemovalExecutor
    storage: Storage
    database: Database
    lease: timedelta
    clock: Callable[[], datetime] = now
    metrics: Metrics = field(default_factory=Metrics)
    leases: LeaseRenewer = field(default_factory=LeaseRenewer)
    patience: timedelta = field(default_factory=lambda: PATIENCE)
    require_storage: Callable[[], None] = lambda: None


@dataclass(frozen=True)
class RemotePhoto:
    """A photo that is elsewhere, and is fetched before anything is held for it."""

    # It may be signed, and so a key to the photo.
    url: str = field(repr=False)
    fetch: Callable[[str], Awaitable[bytes]] = field(repr=False)


async def remove_one(
    context: RemovalContext,
    user_id: uuid.UUID,
    photo: bytes | RemotePhoto,
    options: Options,
    key: str | None = None,
) -> tuple[Job, bytes]:
    """Remove the background of one photo; other calls go on meanwhile. The job, and the picture.

    A removal of the quota or the price in credits is taken and the job written, in one transaction; then the photo is
    worked on, with none open; then the picture is stored; then the job is completed and what was taken is kept, in
    another. Whatever goes wrong on the way gives it back. What a crash leaves open, `fail_lost_jobs` does.

    A second call with the same `key`, the caller's own, is not a second removal: it waits a moment for the first one and
    gives the same; only where the first one failed, or was lost, is the work done anew. Of a remote photo the key stands
    for its address, and a repetition is not fetched: it may be gone, or another, and the answer is the same.

    Raises:
        InsufficientCredits: the user has too few, and no quota left; there is no job then.
        KeyUsed: the key was used for another photo, or with other options.
        KeyInWork: the first call with the key is not done yet.
        ResultGone: the removal with this key was done, too long ago.
        CutoutError: the photo cannot be taken, or the engine has too much waiting.
        StorageError: the result cannot be kept.
        Exception: what fetching the photo raises; there is no job then.

    """
    start = time.perf_counter()
    data = photo if isinstance(photo, bytes) else None
    # What is handed over is put into storage, and taken away from there.
    beside = asyncio.to_thread if context.executor.here else to_storage_thread
    while True:
        try:
            job_id, mine = await beside(_begin, context, user_id, photo, options, key, data)
        except _NotHereYet:
            assert isinstance(photo, RemotePhoto)
            data = await photo.fetch(photo.url)
            continue
        if mine:
            break
        waited = time.perf_counter() - start
        first = await asyncio.to_thread(jobs.find, context.database, user_id, job_id)
        if first is not None and first.status is Status.COMPLETED:
            picture = await jobs.stored_picture(context.database, context.storage, job_id, user_id)
            if picture is None:
                raise ResultGone
            return first, picture[0]
        if first is not None and waited > context.patience.total_seconds():
            raise KeyInWork(_retry_after(first, context.clock()))
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    assert data is not None
    structlog.contextvars.bind_contextvars(job=str(job_id))
    try:
        with context.leases.holding(job_id):
            job, made = await context.executor.make(job_id, data, options, user_id)
    except BaseException as error:
        # Also when the caller has hung up: then this task is being cancelled, and what was taken has to go back all the same.
        await asyncio.shield(beside(_give_up, context, job_id, error))
        hung_up = isinstance(error, asyncio.CancelledError)
        context.metrics.failed(
            options.tier, context.executor.backend, "cancelled" if hung_up else describe(error)[0]
        )
        raise
    context.metrics.completed(options.tier, job.backend or "", time.perf_counter() - start, job.credits)
    return job, made


def _give_up(context: RemovalContext, job_id: uuid.UUID, error: BaseException) -> None:
    """End a job that came to nothing, and give back what was taken for it: at once, or when the database answers again."""
    code, detail = describe(error)
    if isinstance(error, OperationalError):  # whose own words have the statement
        code, detail = DatabaseUnavailableError.code, context.database.explain(error)
    try:
        fail(context.database, job_id, code, detail)
    except OperationalError as away:
        log.warning("given back later", job=str(job_id), detail=str(away.orig))
        context.leases.end_later(job_id, code, detail)
    finally:
        context.executor.withdraw(job_id)


def _retry_after(first: Job, at: datetime) -> int:
    """Say in how many seconds a call may be repeated whose key is in work."""
    left = LONGEST_RETRY_SECONDS if first.lease_until is None else (first.lease_until - at).total_seconds()
    return max(1, min(LONGEST_RETRY_SECONDS, math.ceil(left)))


def fail(database: Database, job_id: uuid.UUID, code: str, detail: str) -> bool:
    """End a job without a result and give back what was taken for it; False if it had ended before."""
    with database.begin() as session:
        return completion.fail(session, job_id, code, detail)


def fail_lost_jobs(
    database: Database, clock: Callable[[], datetime] = now, leases: LeaseRenewer | None = None
) -> int:
    """End the jobs whose process died, and give back what was taken for them; return how many. Those that this process
    works on (`leases`) are none of them, also where they could not be renewed.
    """
    in_work = leases.held() if leases is not None else []
    with database.begin() as session:
        # Those that workers do are not lost with a worker: another takes them.
        lost = session.scalars(
            select(Job.id).where(
                Job.status == Status.PROCESSING,
                Job.options.is_(None),
                Job.lease_until < clock(),
                Job.id.not_in(in_work),
            )
        ).all()
    return sum(fail(database, job_id, "INTERNAL", LOST) for job_id in lost)


def forget_keys(database: Database, age: timedelta) -> int:
    """Delete the idempotency keys that are older than `age`; return how many."""
    with database.begin() as session:
        old = delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - age)
        return len(session.scalars(old.returning(IdempotencyKey.id)).all())


def _begin(
    context: RemovalContext,
    user_id: uuid.UUID,
    photo: bytes | RemotePhoto,
    options: Options,
    key: str | None,
    data: bytes | None = b"",
) -> tuple[uuid.UUID, bool]:
    """Write a job and take what it costs: its id, and True. Or the id of the job that has the key already, and False.

    Raises:
        _NotHereYet: there would be a job, and the photo's `data` are still elsewhere; nothing is held.
        CutoutError, QueueUnavailable: no photo can be taken now; nothing is held.

    """
    fingerprint = "" if key is None else _fingerprint(photo, options)
    if key is not None:
        first = context.database.run_read_only(_first_with, context, user_id, key, fingerprint)
        if first is not None:
            return first, False
    if data is None:
        raise _NotHereYet
    # Before the transaction: it may ask the queue, the storage and the database, and wait for each. What cannot be worked
    # on now leaves nothing behind.
    context.require_storage()
    job_id, columns = uuid.uuid4(), {}
    if context.executor.here:
        context.executor.require_capacity()
    else:
        columns = context.executor.enqueue(job_id, data, options)
    try:
        first = _write_once(context, user_id, job_id, options, columns, key, fingerprint)
    except BaseException as error:
        context.executor.withdraw(job_id)
        if isinstance(error, OperationalError):  # what was asked for last may be done nevertheless
            context.leases.end_later(job_id, DatabaseUnavailableError.code, NOT_BEGUN)
        raise
    if first is None:
        return job_id, True
    context.executor.withdraw(job_id)
    return first, False


def _write_once(
    context: RemovalContext,
    user_id: uuid.UUID,
    job_id: uuid.UUID,
    options: Options,
    columns: Mapping[str, Any],
    key: str | None,
    fingerprint: str,
) -> uuid.UUID | None:
    """Write a job and take what it costs, and return None; or the id of the job that has the key by now."""
    while True:
        try:
            with context.database.begin() as session:
                known = None if key is None else known_key(session, user_id, key)
                if known is not None:
                    first = session.get_one(Job, _job_id_of(known, fingerprint), populate_existing=True)
                    if _is_lost(first, context):
                        completion.fail(session, first.id, "INTERNAL", LOST)
                    elif first.status is not Status.FAILED:
                        return first.id
                _write_job(session, context, user_id, job_id, options, columns)
                if known is not None:
                    known.job_id = job_id
                elif key is not None:
                    session.add(
                        IdempotencyKey(user_id=user_id, key=key, fingerprint=fingerprint, job_id=job_id)
                    )
            return None
        except IntegrityError:
            if key is None or context.database.run_in_transaction(known_key, user_id, key) is None:
                raise
            # Another call with the same key was a moment faster: look again.


def known_key(session: Session, user_id: uuid.UUID, key: str) -> IdempotencyKey | None:
    """Find a key of a user's, and keep others from changing it until the transaction ends."""
    mine = select(IdempotencyKey).where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
    return session.scalars(mine.with_for_update()).one_or_none()


def _first_with(
    session: Session, context: RemovalContext, user_id: uuid.UUID, key: str, fingerprint: str
) -> uuid.UUID | None:
    """Return the id of the job that a key stands for; None where there is none, or it came to nothing."""
    mine = select(IdempotencyKey).where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
    known = session.scalars(mine).one_or_none()
    if known is None:
        return None
    job = session.get_one(Job, _job_id_of(known, fingerprint))
    return None if job.status is Status.FAILED or _is_lost(job, context) else job.id


def _job_id_of(known: IdempotencyKey, fingerprint: str) -> uuid.UUID:
    if known.fingerprint != fingerprint or known.job_id is None:
        raise KeyUsed
    return known.job_id


def _is_lost(job: Job, context: RemovalContext) -> bool:
    """Tell whether a job's process has died at it. A job of this process has not, also where it could not be renewed."""
    is_late = job.lease_until is not None and job.lease_until < context.clock()
    return job.status is Status.PROCESSING and is_late and job.id not in context.leases.held()


def _write_job(
    session: Session,
    context: RemovalContext,
    user_id: uuid.UUID,
    job_id: uuid.UUID,
    options: Options,
    columns: Mapping[str, Any],
) -> None:
    at = context.clock()
    paid_by, price = job_charges.reserve(session, user_id, job_id, options.tier, at)
    job = {
        "id": job_id,
        "user_id": user_id,
        "status": Status.PROCESSING,
        "tier": options.tier,
        "credits": price,
        "paid_by": paid_by,
        "format": options.format.value,
        "lease_until": at + context.lease,
        "created_at": at,
        **columns,
    }
    session.execute(WRITE_JOB, job)


def _fingerprint(photo: bytes | RemotePhoto, options: Options) -> str:
    sent = b"imageUrl\n" + photo.url.encode() if isinstance(photo, RemotePhoto) else photo
    return hashlib.sha256(repr(options).encode() + b"\n" + sent).hexdigest()
