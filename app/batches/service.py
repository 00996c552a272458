"""Business logic of batches: submit and pay in advance, query, cancel, end.

The photos of a batch are jobs. Workers process them, see `jobs.leases`; nothing here waits for a worker.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session

from cutout.app.auth import accounts
from cutout.app.batches.names import unique_stems
from cutout.app.billing import ledger
from cutout.app.billing.pricing import LARGEST_BATCH, SMALLEST_BATCH, least_price, price
from cutout.app.core.errors import ServiceError
from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, IdempotencyKey, Job, PaidBy, Status, StoreDelivery, plain
from cutout.app.jobs import leases
from cutout.app.jobs.queries import LONGEST_NAME
from cutout.app.notifications import outbox
from cutout.app.ratelimit.limits import Kind, Limit, RateLimited
from cutout.app.removals.idempotency import KeyUsed, add_key, described, find_key, write_once
from cutout.app.stores import service as stores
from cutout.app.stores.addresses import names_for
from cutout.inference.imaging.hints import Hints
from cutout.inference.options import Options

IN_WORK = (Status.PENDING, Status.PROCESSING)


class WrongBatchSize(ServiceError):
    """A batch has too few photos, too many, or not as many as `imageCount` says."""

    code, status = "BATCH_SIZE", 400
    example = "A batch has 2 to 500 photos, not 501."


@dataclass(frozen=True)
class StoredPhoto:
    """A photo of a batch, stored at `jobs.upload_key`; `name` is the file name as it was sent."""

    job_id: uuid.UUID
    name: str
    sha256: str


@dataclass(frozen=True)
class BatchRequest:
    """The options of a batch, where to send notifications when it ends, and where its results go: to no store, or to
    one address for each photo.

    `hints` are one for each photo, None where those of the options hold; or none at all.
    """

    options: Options
    webhook_url: str | None = field(default=None, repr=False)
    notify_email: str | None = field(default=None, repr=False)
    store_urls: tuple[str, ...] = field(default=(), repr=False)
    hints: tuple[Hints | None, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Progress:
    """The number of photos of a batch in each status."""

    counts: Mapping[Status, int]

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    @property
    def ended(self) -> int:
        return self.total - sum(self.counts.get(status, 0) for status in IN_WORK)


def require_size(photos: int, announced: int | None = None) -> None:
    """Return if a batch may have this number of photos.

    Raises:
        WrongBatchSize: the number is out of range, or differs from `announced`.

    """
    if not SMALLEST_BATCH <= photos <= LARGEST_BATCH:
        raise WrongBatchSize(
            f"A batch has {SMALLEST_BATCH} to {LARGEST_BATCH} photos, not {photos}."
            + (" Send a single photo to /api/background-remover/remove." if photos == 1 else "")
        )
    if announced is not None and announced != photos:
        raise WrongBatchSize(
            f"imageCount is {announced}, but {photos} photos were received. Send all photos again, or"
            " correct imageCount."
        )


def submit(
    database: Database,
    user_id: uuid.UUID,
    batch_id: uuid.UUID,
    photos: Sequence[StoredPhoto],
    request: BatchRequest,
    at: datetime,
    key: str | None = None,
    limit: Limit | None = None,
) -> tuple[Batch, bool]:
    """Create a batch whose photos are stored, and hold its price, in one transaction.

    `key` is the idempotency key of the caller. Returns the batch and whether it is new: if `key` was used before with
    the same photos and the same order, the result is the existing batch and False.

    Raises:
        WrongBatchSize: there are too few photos or too many.
        InsufficientCredits: the user has too few credits; no batch is created.
        KeyUsed: the key was used for a different request.
        RateLimited: the user has reached `limit` for accepted batches.

    """
    require_size(len(photos))
    fingerprint = _fingerprint(photos, request)

    def write(session: Session, known: IdempotencyKey | None) -> tuple[Batch, bool]:
        if known is not None:
            if known.batch_id is None or known.fingerprint != fingerprint:
                raise KeyUsed
            return session.get_one(Batch, known.batch_id), False
        batch = _write(session, user_id, batch_id, photos, request, at, limit)
        add_key(session, user_id, key, fingerprint, batch_id=batch_id, at=at)
        return batch, True

    return write_once(database, user_id, key, write)


def require_turn(session: Session, user_id: uuid.UUID, limit: Limit, at: datetime) -> None:
    """Return if a user may submit another batch. Only accepted batches count, including cancelled ones.

    Raises:
        RateLimited: the number of batches accepted within the limit's window has reached the limit.

    """
    window = timedelta(seconds=limit.seconds)
    counted = Batch.created_at > at - window, Batch.created_at <= at + window  # later: the clock was set back
    accepted = select(Batch.created_at).where(Batch.user_id == user_id, *counted)
    newest_first = accepted.order_by(Batch.created_at.desc())
    oldest = session.scalars(newest_first.offset(limit.calls - 1).limit(1)).one_or_none()
    if oldest is not None:
        raise RateLimited(Kind.BATCH, limit, min(oldest + window - at, window).total_seconds())


def check_ahead(
    session: Session, user_id: uuid.UUID, key: str | None, limit: Limit | None, at: datetime
) -> int | None:
    """Check before the upload whether a batch could be accepted now.

    Returns the user's balance, or None if `key` was used before, in which case nothing is checked.

    Raises:
        RateLimited: the user has reached `limit` for accepted batches.
        InsufficientCredits: the user cannot pay for even the cheapest batch.

    """
    if key is not None and find_key(session, user_id, key) is not None:
        return None
    if limit is not None:
        require_turn(session, user_id, limit, at)
    balance = ledger.balance(session, user_id)
    least = least_price(None, SMALLEST_BATCH)
    if balance < least:
        raise ledger.InsufficientCredits(least, balance, at_least=True)
    return balance


def find(session: Session, user_id: uuid.UUID | None, batch_id: uuid.UUID) -> Batch | None:
    """Return a user's batch; None if it does not exist or belongs to another user.

    With `user_id` None, for requests with a signed URL, return the batch whoever owns it.

    Raises:
        AccountDisabled: `user_id` is None, and the owner's account is disabled.

    """
    batch = session.get(Batch, batch_id)
    if batch is not None and user_id is None:
        accounts.require_enabled(session, batch.user_id)
    return batch if batch is not None and user_id in (None, batch.user_id) else None


def page(session: Session, user_id: uuid.UUID, limit: int, offset: int) -> list[tuple[Batch, Progress]]:
    """Return a page of a user's batches with their progress, newest first."""
    rows = select(Batch).where(Batch.user_id == user_id).order_by(Batch.created_at.desc(), Batch.id)
    found = session.scalars(rows.limit(limit).offset(offset)).all()
    far = _progress(session, [batch.id for batch in found])
    return [(batch, far[batch.id]) for batch in found]


def progress(session: Session, batch_id: uuid.UUID) -> Progress:
    """Return the progress of a batch."""
    return _progress(session, [batch_id])[batch_id]


def photos_of(session: Session, batch_id: uuid.UUID) -> Sequence[Job]:
    """Return a batch's photos, in the order in which they were sent."""
    return session.scalars(select(Job).where(Job.batch_id == batch_id).order_by(Job.position)).all()


def seconds_each(session: Session, tier: str, last: int = 20) -> float | None:
    """Return the average wall-clock seconds per photo in the last batches of a tier; None if there are none."""
    took = session.execute(
        select(Batch.started_at, Batch.finished_at, Batch.images)
        .where(
            Batch.tier == tier,
            Batch.status.in_((Status.COMPLETED, Status.PARTIAL)),
            Batch.started_at.is_not(None),
        )
        .order_by(Batch.finished_at.desc())
        .limit(last)
    ).all()
    images = sum(row.images for row in took)
    return (
        sum((row.finished_at - row.started_at).total_seconds() for row in took) / images if images else None
    )


def cancel(session: Session, batch: Batch, at: datetime) -> bool:
    """Cancel a batch and its unfinished photos, and return their credits at once.

    Returns False if the batch has ended or is cancelled already. A worker that is processing one of the photos finds
    that its lease is gone. The finished photos are still packed into a ZIP.
    """
    cancelled = update(Batch).where(
        Batch.id == batch.id, Batch.finished_at.is_(None), Batch.status.in_(IN_WORK)
    )
    if session.scalar(cancelled.values(status=Status.CANCELLED).returning(Batch.id)) is None:
        return False
    session.execute(
        update(Job)
        .where(Job.batch_id == batch.id, Job.status.in_(IN_WORK))
        .values(status=Status.CANCELLED, finished_at=at, lease_until=None, claim=None)
    )
    cancelled_photos = select(Job.id).where(
        Job.batch_id == batch.id, Job.status == Status.CANCELLED, Job.has_store.is_(True)
    )
    session.execute(delete(StoreDelivery).where(StoreDelivery.job_id.in_(cancelled_photos)))
    session.refresh(batch)
    _settle(session, batch)
    return True


def end(
    session: Session, batch_id: uuid.UUID, token: uuid.UUID, zip_bytes: int | None, at: datetime
) -> Batch | None:
    """End a batch whose photos have all ended and whose ZIP, if any photo succeeded, is stored.

    Settles its credits and queues its notifications. Returns None if another worker has claimed or ended the batch in
    the meantime.
    """
    mine = Batch.id == batch_id, Batch.claim == token, Batch.finished_at.is_(None)
    ended = (
        update(Batch).where(*mine).values(finished_at=at, claim=None, lease_until=None, zip_bytes=zip_bytes)
    )
    if session.scalar(ended.returning(Batch.id)) is None:
        return None
    batch = session.get_one(Batch, batch_id, populate_existing=True)
    batch.status = end_status(batch, progress(session, batch_id).counts)
    _settle(session, batch)
    outbox.announce(session, batch)
    return batch


def end_status(batch: Batch, counts: Mapping[Status, int]) -> Status:
    """Return the final status of a batch whose photos have all ended."""
    if batch.status is Status.CANCELLED:
        return Status.CANCELLED
    done, failed = counts.get(Status.COMPLETED, 0), counts.get(Status.FAILED, 0)
    if done and failed:
        return Status.PARTIAL
    return Status.COMPLETED if done else Status.FAILED


def credits_of_unfinished(photos: Sequence[Job]) -> int:
    """Return how many of the held credits are returned for photos that did not complete."""
    return sum(photo.credits for photo in photos if photo.status is not Status.COMPLETED)


def postpone(session: Session, batch_id: uuid.UUID, token: uuid.UUID, wait: timedelta) -> None:
    """Release the claim on a batch that could not be ended; it can be claimed again after `wait`."""
    mine = update(Batch).where(Batch.id == batch_id, Batch.claim == token)
    session.execute(mine.values(claim=None, lease_until=shared_now(session) + wait))


def _settle(session: Session, batch: Batch) -> None:
    """Charge for the completed photos and return the other held credits; repeated calls have no effect."""
    back = credits_of_unfinished(photos_of(session, batch.id))
    batch.charged = batch.credits - back
    ledger.charge_part(
        session, _key(batch.id), back, "for photos of the batch that were not completed" if back else ""
    )
    session.flush()


def _write(
    session: Session,
    user_id: uuid.UUID,
    batch_id: uuid.UUID,
    photos: Sequence[StoredPhoto],
    request: BatchRequest,
    at: datetime,
    limit: Limit | None,
) -> Batch:
    tier = request.options.tier
    cost = price(tier, len(photos))
    note = f"{len(photos)} {tier.value} images, {cost.total} credits"
    if cost.discount:
        note += f" less {cost.percent} % = {cost.discount}"
    ledger.hold(session, user_id, cost.final, _key(batch_id), note)
    # The hold has locked the user's row, so concurrent submissions are counted one after the other.
    if limit is not None:
        require_turn(session, user_id, limit, at)
    batch = Batch(
        id=batch_id,
        user_id=user_id,
        status=Status.PENDING,
        tier=tier,
        images=len(photos),
        credits=cost.final,
        discount=cost.discount,
        discount_percent=cost.percent,
        webhook_url=request.webhook_url,
        notify_email=request.notify_email,
        created_at=at,
    )
    session.add(batch)
    session.flush()
    shared, hints = leases.write_options(request.options), request.hints or (None,) * len(photos)
    rows = [
        {
            "id": photo.job_id,
            "user_id": user_id,
            "batch_id": batch_id,
            "position": position,
            "name": photo.name[:LONGEST_NAME],
            "status": Status.PENDING,
            "tier": tier,
            "credits": cost.share(position),
            "paid_by": PaidBy.CREDITS,
            "format": request.options.format.value,
            "options": shared if own is None else leases.write_options(replace(request.options, hints=own)),
            "attempts": 0,
            "created_at": at,
            "has_store": bool(request.store_urls),
        }
        for position, (photo, own) in enumerate(zip(photos, hints, strict=True))
    ]
    session.execute(insert(plain(Job)), rows)
    _plan_stores(session, user_id, photos, request, at)
    return batch


def _plan_stores(
    session: Session, user_id: uuid.UUID, photos: Sequence[StoredPhoto], request: BatchRequest, at: datetime
) -> None:
    if not request.store_urls:
        return
    ids = [photo.job_id for photo in photos]
    names = names_for(request.store_urls, [photo.name[:LONGEST_NAME] for photo in photos])
    stems = unique_stems([(name, position) for position, name in enumerate(names)])
    targets = dict(zip(ids, request.store_urls, strict=True))
    stores.plan(session, user_id, targets, dict(zip(ids, stems, strict=True)), at)


def _progress(session: Session, batch_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, Progress]:
    counts: dict[uuid.UUID, Counter[Status]] = {batch_id: Counter() for batch_id in batch_ids}
    rows = session.execute(
        select(Job.batch_id, Job.status, func.count())
        .where(Job.batch_id.in_(batch_ids))
        .group_by(Job.batch_id, Job.status)
    )
    for batch_id, status, count in rows:
        assert batch_id is not None
        counts[batch_id][status] = count
    return {batch_id: Progress(counted) for batch_id, counted in counts.items()}


def _fingerprint(photos: Sequence[StoredPhoto], request: BatchRequest) -> str:
    sent = "\n".join(f"{photo.sha256} {photo.name}" for photo in photos)
    if request.store_urls:
        sent += "\n".join(["\nstoreUrl", *request.store_urls])
    if any(hints is not None for hints in request.hints):
        sent += "\n".join(["\nhints", *(str(own and described(own)) for own in request.hints)])
    wished = f"BatchRequest(options={described(request.options)})"
    return hashlib.sha256(f"{wished}\n{sent}".encode("utf-8", "surrogatepass")).hexdigest()


def _key(batch_id: uuid.UUID) -> str:
    return f"batch:{batch_id}"
