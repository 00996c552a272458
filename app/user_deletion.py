"""Deletion of a user and their data. Accounting records stay, without personal data."""

import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session

from cutout.app.auth import accounts
from cutout.app.batches import service as batches
from cutout.app.db.session import Database
from cutout.app.db.tables import (
    ApiKey,
    Batch,
    Delivery,
    IdempotencyKey,
    Job,
    Payment,
    PaymentStatus,
    Role,
    Status,
    StoreDelivery,
    Subscription,
    SubscriptionUsage,
    User,
    now,
)
from cutout.app.jobs import completion
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.originals import original_key
from cutout.app.jobs.thumbnails import thumbnail_key
from cutout.app.storage.base import Storage
from cutout.inference.imaging.encode import Format

DELETED = "deleted:"
# Error detail of a removal whose user is deleted while it runs.
GONE = "The account was deleted. Nothing was charged."


@dataclass(frozen=True)
class Deleted:
    """The number of deleted jobs, batches and files."""

    jobs: int
    batches: int
    files: int


def delete_user(
    database: Database, storage: Storage, user_id: uuid.UUID, at: datetime | None = None
) -> Deleted:
    """Delete a user and their data. Safe to repeat after a failure.

    The data are photos, results, ZIPs, jobs, batches, keys and subscriptions.

    First the account is disabled and running work is ended without charge; then files are deleted, then rows. The
    ledger and confirmed payments stay: they reference a user row without name, e-mail or password, which cannot be
    used again. Rows that concurrent requests still write are deleted by `delete_late_rows`.

    Raises:
        LookupError: there is no such user.
        AccountError: this is the only user of a service without authentication.
        StorageError: a file cannot be deleted. The account is disabled, and the rows still exist.

    """
    at = at or now()
    database.run_in_transaction(close_account, user_id, at)
    files = _delete_files(database, storage, user_id)
    with database.begin() as session:
        user = close_account(session, user_id, at)
        return _delete_rows(session, user, at, files)


def delete_late_rows(database: Database, storage: Storage) -> int:
    """Delete what requests wrote that were running when their user was deleted; return the number of jobs and batches.

    Raises:
        StorageError: a file cannot be deleted. Its row still exists.

    """
    has_some = or_(exists().where(Job.user_id == User.id), exists().where(Batch.user_id == User.id))
    with database.read() as session:
        late = session.scalars(select(User.id).where(User.deleted_at.is_not(None), has_some)).all()
    count = 0
    for user_id in late:
        database.run_in_transaction(_end_work, user_id, now())
        files = _delete_files(database, storage, user_id)
        deleted = database.run_in_transaction(_delete_work, user_id, files)
        count += deleted.jobs + deleted.batches
    return count


def close_account(session: Session, user_id: uuid.UUID, at: datetime) -> User:
    """Disable a user, and end their unfinished jobs and batches."""
    user = session.scalars(select(User).where(User.id == user_id).with_for_update()).one_or_none()
    if user is None or user.deleted_at is not None:
        raise LookupError(f"there is no user {user_id}")
    accounts.disable(session, user)
    _end_work(session, user_id, at)
    return user


def _end_work(session: Session, user_id: uuid.UUID, at: datetime) -> None:
    for batch in session.scalars(
        select(Batch).where(Batch.user_id == user_id, Batch.finished_at.is_(None))
    ).all():
        batches.cancel(session, batch, at)
    open_jobs = select(Job.id).where(Job.user_id == user_id, Job.status.in_(batches.IN_WORK))
    for job_id in session.scalars(open_jobs).all():
        completion.fail(session, job_id, "FORBIDDEN", GONE)


def _delete_files(database: Database, storage: Storage, user_id: uuid.UUID) -> int:
    """Delete a user's files, and return how many there may have been."""
    files = database.run_read_only(_files_of, user_id)
    for folder in database.run_read_only(_folders_of, user_id):
        files += storage.list_older_than(timedelta(0), folder)
    keys = dict.fromkeys(files)  # in their order: a thumbnail goes after its result
    for key in keys:
        storage.delete(key)
    return len(keys)


def _folders_of(session: Session, user_id: uuid.UUID) -> list[str]:
    """Return the storage prefixes with pictures behind the photos of a user's batches, which go when a batch ends."""
    unfinished = select(Batch.id).where(Batch.user_id == user_id, Batch.finished_at.is_(None))
    return list(map(jobs.uploads_of, session.scalars(unfinished)))


def _files_of(session: Session, user_id: uuid.UUID) -> list[str]:
    """Return the storage keys that a user's files may have: photos, also those that are kept, results of each attempt
    with thumbnails, ZIPs.
    """
    mine = select(Job.id, Job.batch_id, Job.format, Job.attempts, Job.status).where(Job.user_id == user_id)
    found = []
    for job_id, batch_id, file_format, attempts, status in session.execute(mine):
        found += [jobs.result_key(job_id, Format(file_format), attempt) for attempt in range(attempts + 1)]
        found += [original_key(job_id), thumbnail_key(job_id)]
        if batch_id is not None or attempts or status is not Status.COMPLETED:
            found.append(jobs.upload_key(job_id, batch_id))
    found += map(jobs.archive_key, session.scalars(select(Batch.id).where(Batch.user_id == user_id)))
    return found


def _delete_rows(session: Session, user: User, at: datetime, files: int) -> Deleted:
    # Subscriptions reference payments, so they go first. A pending payment must not be confirmed for a deleted user.
    session.execute(delete(Subscription).where(Subscription.user_id == user.id))
    waiting = Payment.user_id == user.id, Payment.status == PaymentStatus.PENDING
    session.execute(delete(Payment).where(*waiting))
    for table in (SubscriptionUsage, ApiKey):
        session.execute(delete(table).where(table.user_id == user.id))
    deleted = _delete_work(session, user.id, files)
    user.subject, user.email, user.password_hash, user.role = f"{DELETED}{user.id}", None, None, Role.USER
    user.deleted_at = at
    return deleted


def _delete_work(session: Session, user_id: uuid.UUID, files: int) -> Deleted:
    own_batches = select(Batch.id).where(Batch.user_id == user_id)
    session.execute(delete(Delivery).where(Delivery.batch_id.in_(own_batches)))
    for table in (StoreDelivery, IdempotencyKey):
        session.execute(delete(table).where(table.user_id == user_id))
    counts = [
        len(session.scalars(delete(table).where(table.user_id == user_id).returning(table.id)).all())
        for table in (Job, Batch)
    ]
    return Deleted(counts[0], counts[1], files)
