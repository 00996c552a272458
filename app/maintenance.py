"""Periodic background tasks of the service. Several hosts with the same database may run them concurrently: each row
and file is settled or deleted only once.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from cutout.app import user_deletion
from cutout.app.core.clock_watch import ClockWatch
from cutout.app.core.threads import to_the_end
from cutout.app.db import advisory_locks
from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Channel, now
from cutout.app.jobs import leases, originals, thumbnails, upload_cleanup
from cutout.app.jobs.lease_renewal import LeaseRenewer
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue
from cutout.app.notifications.attempts import mend_due_times
from cutout.app.notifications.outbox import EVERY as DELIVER_EVERY
from cutout.app.notifications.outbox import Outbox, deliver_due
from cutout.app.removals import idempotency, lost_jobs
from cutout.app.storage.base import Storage, StorageError
from cutout.app.stores.service import ResultStores

log = structlog.get_logger()

SETTLE_EVERY = timedelta(seconds=30)
DELETE_EVERY = timedelta(hours=1)
# A clock that is wrong when a host starts is set within minutes, before anything is deleted by it.
DELETE_FIRST = timedelta(minutes=5)
# A difference that two clocks of a well-kept host or network never have, and how long after a jump a clock is believed.
LARGEST_DIFFERENCE, SURE_AFTER = timedelta(minutes=1), timedelta(days=1)
CLOCK_JUMPED, NOT_DELETED = "the clock was set", "nothing old is deleted: the time is not sure"
# A batch has no jobs before its last photo has arrived, and an upload of 2 GB may take this long.
UPLOADS_KEPT = timedelta(hours=3)
LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY = timedelta(seconds=0.5), timedelta(seconds=10)


# An interval, a name, and a task that returns a count.
Work = tuple[timedelta, str, Callable[[], Awaitable[int]]]


@asynccontextmanager
async def running_maintenance(
    database: Database,
    storage: Storage,
    queue: Queue,
    outbox: Outbox,
    stores: ResultStores,
    renewer: LeaseRenewer | None = None,
    *,
    kept: timedelta,
    lease: timedelta,
    deadline: timedelta,
) -> AsyncIterator[None]:
    """Run the periodic tasks within the block.

    They settle lost jobs, except those running in this process (`renewer`); release photos whose worker has not
    renewed its `lease`; fail photos that no worker has claimed by their `deadline`; delete results, their photos and idempotency
    keys older than `kept`, unneeded uploads, and late rows of deleted users; deliver the notifications of the outbox,
    and results to the `stores` of their users.
    """
    jobs_of_dead_processes = AfterOutages(
        partial(lost_jobs.fail_lost_jobs, database, leases=renewer), database, lease
    )
    lost_workers = AfterOutages(partial(recover_lost_work, database, queue, lease), database, lease)
    late = AfterOutages(partial(database.run_in_transaction, leases.expire, deadline), database, lease)
    deleted_users = partial(to_the_end, user_deletion.delete_late_rows, database, storage)
    webhooks = partial(deliver_due, outbox, Channel.WEBHOOK)
    mails = partial(deliver_due, outbox, Channel.MAIL)
    works: list[Work] = [
        (min(SETTLE_EVERY, check_interval(lease)), "lost jobs settled", jobs_of_dead_processes),
        (check_interval(lease), "photos of lost workers released", lost_workers),
        (SETTLE_EVERY, "unclaimed photos expired", late),
        (SETTLE_EVERY, "remaining jobs and batches of deleted users deleted", deleted_users),
        *_deletions(database, storage, stores, kept),
        (DELIVER_EVERY, "deliveries to stores attempted", stores.deliver_due),
        (DELIVER_EVERY, "webhook deliveries attempted", webhooks),
        (DELIVER_EVERY, "mail deliveries attempted", mails),
    ]
    tasks = [
        asyncio.create_task(_every(*work, first=DELETE_FIRST if work[0] is DELETE_EVERY else timedelta(0)))
        for work in works
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def _deletions(database: Database, storage: Storage, stores: ResultStores, kept: timedelta) -> list[Work]:
    """Return the tasks that delete what is old, and the one that watches the clock for them."""
    watch = ClockWatch(LARGEST_DIFFERENCE.total_seconds())

    async def look() -> int:
        return look_at_clock(watch)

    works: list[tuple[str, Callable[[], int]]] = [
        ("old results deleted", partial(thumbnails.delete_old_results, storage, kept)),
        ("photos of old results deleted", partial(storage.delete_older_than, kept, originals.ORIGINALS)),
        (
            "abandoned uploads deleted",
            partial(upload_cleanup.forget_uploads, database, storage, UPLOADS_KEPT),
        ),
        ("old idempotency keys deleted", partial(idempotency.forget_keys, database, kept)),
        ("deliveries of old results ended", partial(stores.end_expired, kept)),
    ]
    return [
        (LOOK_AT_LEAST_EVERY, "clock looked at", look),
        *((DELETE_EVERY, name, WhileClockIsSure(work, database, watch)) for name, work in works),
    ]


class AfterOutages:
    """A task on expired leases that skips one run after a database outage, and those within a lease after the database's
    clock was set forward. All leases expire then, so live workers need time to renew theirs first.
    """

    def __init__(
        self, work: Callable[[], int], database: Database, lease: timedelta, watch: ClockWatch | None = None
    ) -> None:
        self._work = work
        self._database = database
        self._lease = lease
        self._watch = watch or ClockWatch(max(1.0, lease.total_seconds() / 3))
        self._was_away = False

    async def __call__(self) -> int:
        try:
            if self._was_away:
                await to_the_end(self._database.run_read_only, _answers)
                self._was_away = False
                return 0
            jump = await to_the_end(self._watch.look, self._database_time)
            if jump:
                log.warning(CLOCK_JUMPED, seconds=round(jump), whose="the database's")
            if not self._watch.is_steady(self._lease.total_seconds()):
                return 0
            return await to_the_end(self._work)
        except OperationalError:
            self._was_away = True
            raise

    def _database_time(self) -> float:
        return self._database.run_read_only(shared_now).timestamp()


class WhileClockIsSure:
    """A task that deletes what is old, which a wrong clock would take for all there is. It is put off for a day after
    the clock of this host jumped, and while it differs from the database's.
    """

    def __init__(self, work: Callable[[], int], database: Database, watch: ClockWatch) -> None:
        self._work = work
        self._database = database
        self._watch = watch

    async def __call__(self) -> int:
        apart = now() - await to_the_end(self._database.run_read_only, shared_now)
        look_at_clock(self._watch)
        if abs(apart) > LARGEST_DIFFERENCE:
            log.warning(
                NOT_DELETED,
                reason="this host's clock differs from the database's",
                seconds=round(apart.total_seconds()),
            )
        elif not self._watch.is_steady(SURE_AFTER.total_seconds()):
            log.warning(NOT_DELETED, reason="this host's clock was set less than a day ago")
        else:
            return await to_the_end(self._work)
        return 0


def look_at_clock(watch: ClockWatch) -> int:
    """Log it if the clock of this host was set."""
    jump = watch.look(time.time)
    if jump:
        log.warning(CLOCK_JUMPED, seconds=round(jump), whose="this host's")
    return 0


def _answers(session: Session) -> None:
    session.execute(select(1))


def recover_lost_work(database: Database, queue: Queue, lease: timedelta) -> int:
    """Release the photos of lost workers, and send wake-up signals for all waiting work, because signals or the
    contents of the queue may have been lost. Return the number of photos released.

    What a clock put far into the future, before it was set back by the length of a `lease` or more, is mended.
    """
    with database.begin() as session:
        if not advisory_locks.try_take(session, advisory_locks.SWEEPER):
            return 0  # another host is doing it
        at = shared_now(session)
        freed = leases.release_expired(session, at)
        mended = leases.mend_leases(session, lease, at) + mend_due_times(session, at)
    if mended:
        log.warning("times in the far future mended: a clock was set back", rows=mended)
    # Outside the transaction, because the queue may be slow to answer.
    for line in Line:
        if database.run_read_only(leases.has_waiting_work, line):
            queue.notify_workers(line)
    return freed


def check_interval(lease: timedelta) -> timedelta:
    return max(LOOK_AT_MOST_EVERY, min(LOOK_AT_LEAST_EVERY, lease / 2))


async def _every(
    interval: timedelta, name: str, work: Callable[[], Awaitable[int]], first: timedelta = timedelta(0)
) -> None:
    """Run `work`, which returns a count, after `first` and then after each interval. A failure is logged, and the next
    run retries.
    """
    await asyncio.sleep(first.total_seconds())
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
