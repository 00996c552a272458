"""Periodic background tasks of the service. Several hosts with the same database may run them concurrently: each row
and file is settled or deleted only once.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app import user_deletion
from cutout.app.core.threads import to_the_end
from cutout.app.db import advisory_locks
from cutout.app.db.session import Database
from cutout.app.db.tables import Channel, now
from cutout.app.jobs import leases as claims
from cutout.app.jobs import originals, thumbnails, upload_cleanup
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.notifications.outbox import EVERY as DELIVER_EVERY
from cutout.app.notifications.outbox import Outbox, deliver_due
from cutout.app.removals import idempotency, lost_jobs
from cutout.app.storage.base import Storage, StorageError
from cutout.app.stores.service import ResultStores

log = structlog.get_logger()

SETTLE_EVERY = timedelta(seconds=30)
DELETE_EVERY = timedelta(hours=1)
# A batch has no jobs before its last photo has arrived, and an upload of 2 GB may take this long.
UPLOADS_KEPT = timedelta(hours=3)
LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY = timedelta(seconds=0.5), timedelta(seconds=10)


@asynccontextmanager
async def running_maintenance(
    database: Database,
    storage: Storage,
    queue: Queue,
    outbox: Outbox,
    stores: ResultStores,
    leases: LeaseRenewer | None = None,
    *,
    kept: timedelta,
    lease: timedelta,
    deadline: timedelta,
) -> AsyncIterator[None]:
    """Run the periodic tasks within the block.

    They settle lost jobs, except those running in this process (`leases`); release photos whose worker has not
    renewed its `lease`; fail photos that no worker has claimed by their `deadline`; delete results, their photos and idempotency
    keys older than `kept`, unneeded uploads, and late rows of deleted users; deliver the notifications of the outbox,
    and results to the `stores` of their users.
    """
    jobs_of_dead_processes = AfterOutages(
        partial(lost_jobs.fail_lost_jobs, database, leases=leases), database
    )
    lost_workers = AfterOutages(partial(recover_lost_work, database, queue), database)
    late = partial(to_the_end, expire_waiting_photos, database, deadline)
    old_results = partial(to_the_end, thumbnails.delete_old_results, storage, kept)
    old_photos = partial(to_the_end, storage.delete_older_than, kept, originals.ORIGINALS)
    old_uploads = partial(to_the_end, upload_cleanup.forget_uploads, database, storage, UPLOADS_KEPT)
    old_keys = partial(to_the_end, idempotency.forget_keys, database, kept)
    deleted_users = partial(to_the_end, user_deletion.delete_late_rows, database, storage)
    webhooks = partial(deliver_due, outbox, Channel.WEBHOOK)
    mails = partial(deliver_due, outbox, Channel.MAIL)
    undelivered = partial(to_the_end, stores.end_expired, kept)
    works: list[tuple[timedelta, str, Callable[[], Awaitable[int]]]] = [
        (min(SETTLE_EVERY, check_interval(lease)), "lost jobs settled", jobs_of_dead_processes),
        (check_interval(lease), "photos of lost workers released", lost_workers),
        (SETTLE_EVERY, "unclaimed photos expired", late),
        (SETTLE_EVERY, "remaining jobs and batches of deleted users deleted", deleted_users),
        (DELETE_EVERY, "old results deleted", old_results),
        (DELETE_EVERY, "photos of old results deleted", old_photos),
        (DELETE_EVERY, "abandoned uploads deleted", old_uploads),
        (DELETE_EVERY, "old idempotency keys deleted", old_keys),
        (DELETE_EVERY, "deliveries of old results ended", undelivered),
        (DELIVER_EVERY, "deliveries to stores attempted", stores.deliver_due),
        (DELIVER_EVERY, "webhook deliveries attempted", webhooks),
        (DELIVER_EVERY, "mail deliveries attempted", mails),
    ]
    tasks = [asyncio.create_task(_every(*work)) for work in works]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


class AfterOutages:
    """A task on expired leases that skips one run after a database outage. All leases expire during an outage, so live
    workers need time to renew theirs first.
    """

    def __init__(self, work: Callable[[], int], database: Database) -> None:
        self._work = work
        self._database = database
        self._was_away = False

    async def __call__(self) -> int:
        try:
            if self._was_away:
                await to_the_end(self._database.run_read_only, _answers)
                self._was_away = False
                return 0
            return await to_the_end(self._work)
        except OperationalError:
            self._was_away = True
            raise


def _answers(session: Session) -> None:
    session.execute(select(1))


def recover_lost_work(database: Database, queue: Queue) -> int:
    """Release the photos of lost workers, and send wake-up signals for all waiting work, because signals or the
    contents of the queue may have been lost. Return the number of photos released.
    """
    at = now()
    with database.begin() as session:
        if not advisory_locks.try_take(session, advisory_locks.SWEEPER):
            return 0  # another host is doing it
        freed = claims.release_expired(session, at)
    # Outside the transaction, because the queue may be slow to answer.
    for line in Line:
        if database.run_read_only(claims.has_waiting_work, line, at):
            queue.notify_workers(line)
    return freed


def expire_waiting_photos(database: Database, deadline: timedelta) -> int:
    """Fail the photos that no worker has claimed and whose callers no longer wait; return how many."""
    return database.run_in_transaction(claims.expire, now() - deadline)


def check_interval(lease: timedelta) -> timedelta:
    return max(LOOK_AT_MOST_EVERY, min(LOOK_AT_LEAST_EVERY, lease / 2))


async def _every(interval: timedelta, name: str, work: Callable[[], Awaitable[int]]) -> None:
    """Run `work`, which returns a count, now and after each interval. A failure is logged, and the next run retries."""
    while True:
        try:
            count = await work()
            if count:
                log.info(name, count=count)
        except (OperationalError, StorageError) as error:
            cause = error.cause if isinstance(error, StorageError) else error.orig
            log.warning(f"not done: {name}", detail=str(cause or error))
        except Exception:
            log.exception(f"not done: {name}")
        await asyncio.sleep(interval.total_seconds())
