"""One photo: from the caller's bytes to a stored result, paid before the work and given back where it fails."""

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.codes import code_of
from app.db.session import Database
from app.db.tables import IdempotencyKey, Job, Status, now, plain
from app.metrics import Metrics
from app.services import charging, endings, jobs
from app.services.hands import Hands
from app.storage import Storage
from inference.options import Options

# How often a call looks whether the first one with its key is done.
ASK_AGAIN_SECONDS = 0.1
WRITE_JOB = insert(plain(Job))
LOST = "The service stopped while it worked on this photo. Nothing was charged; send it again."


class KeyUsed(Exception):
    """A caller's key stands for another request already."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another photo or other options. Take a new one.")


class ResultGone(Exception):
    """A removal was done and its picture is no longer kept."""

    def __init__(self) -> None:
        super().__init__(
            "The picture of this Idempotency-Key is no longer kept. To make it again, take a new key."
        )


class _NotHereYet(Exception):
    """A photo has to be fetched first."""


class _NotHandedOver(Exception):
    """A photo has to be put where it will be found first."""


@dataclass(frozen=True)
class Workplace:
    """What a removal needs. A job that is not done within `lease` counts as lost."""

    hands: Hands
    storage: Storage
    database: Database
    lease: timedelta
    clock: Callable[[], datetime] = now
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Remote:
    """A photo that is elsewhere, and is fetched before anything is held for it."""

    # It may be signed, and so a key to the photo.
    url: str = field(repr=False)
    fetch: Callable[[str], Awaitable[bytes]] = field(repr=False)


async def remove_one(
    place: Workplace, user_id: uuid.UUID, photo: bytes | Remote, options: Options, key: str | None = None
) -> tuple[Job, bytes]:
    """Remove the background of one photo; other calls go on meanwhile. The job, and the picture.

    A removal of the quota or the price in credits is taken and the job written, in one transaction; then the photo is
    worked on, with none open; then the picture is stored; then the job is completed and what was taken is kept, in
    another. Whatever goes wrong on the way gives it back. What a crash leaves open, `settle_lost` does.

    A second call with the same `key`, the caller's own, is not a second removal: it waits for the first one and gives
    the same; only where the first one failed, or was lost, is the work done anew. Of a remote photo the key stands for
    its address, and a repetition is not fetched: it may be gone, or another, and the answer is the same.

    Raises:
        InsufficientCredits: the user has too few, and no quota left; there is no job then.
        KeyUsed: the key was used for another photo, or with other options.
        ResultGone: the removal with this key was done, too long ago.
        CutoutError: the photo cannot be taken, or the engine has too much waiting.
        StorageError: the result cannot be kept.
        Exception: what fetching the photo raises; there is no job then.

    """
    start = time.perf_counter()
    data = photo if isinstance(photo, bytes) else None
    while True:
        try:
            job_id, mine = await asyncio.to_thread(_begin, place, user_id, photo, options, key, data)
        except _NotHereYet:
            assert isinstance(photo, Remote)
            data = await photo.fetch(photo.url)
            continue
        if mine:
            break
        first = await asyncio.to_thread(jobs.find, place.database, user_id, job_id)
        if first is not None and first.status is Status.COMPLETED:
            picture = await jobs.stored_picture(place.database, place.storage, job_id, user_id)
            if picture is None:
                raise ResultGone
            return first, picture[0]
        await asyncio.sleep(ASK_AGAIN_SECONDS)
    assert data is not None
    try:
        job, made = await place.hands.make(job_id, data, options, user_id)
    except BaseException as error:
        # Also when the caller has hung up: then this task is being cancelled, and what was taken has to go back all the same.
        await asyncio.shield(asyncio.to_thread(_give_up, place, job_id, error))
        hung_up = isinstance(error, asyncio.CancelledError)
        place.metrics.failed(options.tier, place.hands.backend, "cancelled" if hung_up else code_of(error))
        raise
    place.metrics.completed(options.tier, job.backend or "", time.perf_counter() - start, job.credits)
    return job, made


def _give_up(place: Workplace, job_id: uuid.UUID, error: BaseException) -> None:
    fail(place.database, job_id, code_of(error), str(error))
    place.hands.take_back(job_id)


def fail(database: Database, job_id: uuid.UUID, code: str, detail: str) -> bool:
    """End a job without a result and give back what was taken for it; False if it had ended before."""
    with database.begin() as session:
        return endings.fail(session, job_id, code, detail)


def settle_lost(database: Database, clock: Callable[[], datetime] = now) -> int:
    """End the jobs whose process died, and give back what was taken for them; return how many."""
    with database.begin() as session:
        # Those that workers do are not lost with a worker: another takes them.
        lost = session.scalars(
            select(Job.id).where(
                Job.status == Status.PROCESSING, Job.options.is_(None), Job.lease_until < clock()
            )
        ).all()
    return sum(fail(database, job_id, "INTERNAL", LOST) for job_id in lost)


def forget_keys(database: Database, age: timedelta) -> int:
    """Delete the idempotency keys that are older than `age`; return how many."""
    with database.begin() as session:
        old = delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - age)
        return len(session.scalars(old.returning(IdempotencyKey.id)).all())


def _begin(
    place: Workplace,
    user_id: uuid.UUID,
    photo: bytes | Remote,
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
    job_id, handed_over = uuid.uuid4(), place.hands.here
    columns: dict[str, Any] = {}
    try:
        while True:
            try:
                with place.database.begin() as session:
                    known = None if key is None else known_key(session, user_id, key)
                    if known is not None:
                        if known.fingerprint != fingerprint or known.job_id is None:
                            raise KeyUsed
                        if not _was_lost(session, known.job_id, place.clock()):
                            first = known.job_id
                            break
                    if data is None:
                        raise _NotHereYet
                    if not handed_over:
                        raise _NotHandedOver
                    # What cannot be worked on now leaves nothing behind.
                    place.hands.require_room()
                    _write_job(session, place, user_id, job_id, options, columns)
                    if known is not None:
                        known.job_id = job_id
                    elif key is not None:
                        session.add(
                            IdempotencyKey(user_id=user_id, key=key, fingerprint=fingerprint, job_id=job_id)
                        )
                return job_id, True
            except _NotHandedOver:
                assert data is not None
                columns, handed_over = place.hands.hand_over(job_id, data, options), True
            except IntegrityError:
                if key is None or place.database.run(known_key, user_id, key) is None:
                    raise
                # Another call with the same key was a moment faster: look again.
    except BaseException:
        if handed_over:
            place.hands.take_back(job_id)
        raise
    if handed_over:
        place.hands.take_back(job_id)
    return first, False


def known_key(session: Session, user_id: uuid.UUID, key: str) -> IdempotencyKey | None:
    """Find a key of a user's, and keep others from changing it until the transaction ends."""
    mine = select(IdempotencyKey).where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
    return session.scalars(mine.with_for_update()).one_or_none()


def _was_lost(session: Session, job_id: uuid.UUID, at: datetime) -> bool:
    """Tell whether a job came to nothing; one whose process died is ended here."""
    job = session.get_one(Job, job_id, populate_existing=True)
    if job.status is Status.PROCESSING and job.lease_until is not None and job.lease_until < at:
        endings.fail(session, job_id, "INTERNAL", LOST)
        return True
    return job.status is Status.FAILED


def _write_job(
    session: Session,
    place: Workplace,
    user_id: uuid.UUID,
    job_id: uuid.UUID,
    options: Options,
    columns: Mapping[str, Any],
) -> None:
    at = place.clock()
    paid_by, price = charging.reserve(session, user_id, job_id, options.tier, at)
    job = {
        "id": job_id,
        "user_id": user_id,
        "status": Status.PROCESSING,
        "tier": options.tier,
        "credits": price,
        "paid_by": paid_by,
        "format": options.format.value,
        "lease_until": at + place.lease,
        "created_at": at,
        **columns,
    }
    session.execute(WRITE_JOB, job)


def _fingerprint(photo: bytes | Remote, options: Options) -> str:
    sent = b"imageUrl\n" + photo.url.encode() if isinstance(photo, Remote) else photo
    return hashlib.sha256(repr(options).encode() + b"\n" + sent).hexdigest()
