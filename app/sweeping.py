"""What a service does by the clock, beside its calls. Several services of one database may do it all at once: each row
and each file is settled or deleted once, whoever comes first.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial

import structlog
from sqlalchemy.exc import OperationalError

from app.db import locks
from app.db.session import Database
from app.db.tables import now
from app.services import claims, jobs, removals, uploads
from app.services.claims import Line
from app.services.queue import Queue
from app.storage import Storage, StorageError

log = structlog.get_logger()

SETTLE_EVERY = timedelta(seconds=30)
DELETE_EVERY = timedelta(hours=1)
# A batch has no jobs before its last photo has come, and 2 GB may take that long.
UPLOADS_KEPT = timedelta(hours=3)
LOOK_AT_MOST_EVERY, LOOK_AT_LEAST_EVERY = timedelta(seconds=0.5), timedelta(seconds=10)


@asynccontextmanager
async def sweeping(
    database: Database,
    storage: Storage,
    queue: Queue,
    *,
    kept: timedelta,
    lease: timedelta,
    deadline: timedelta,
) -> AsyncIterator[None]:
    """Settle lost jobs, free what workers lost that are silent for a `lease`, end what no worker took by its `deadline`,
    and delete results and idempotency keys older than `kept` and uploads that nobody needs, until the end of the block.
    """
    tasks = [
        asyncio.create_task(_every(interval, name, work))
        for interval, name, work in (
            (SETTLE_EVERY, "lost jobs settled", partial(removals.settle_lost, database)),
            (_look_every(lease), "photos of lost workers freed", partial(look_after, database, queue)),
            (SETTLE_EVERY, "photos that no worker took ended", partial(end_late, database, deadline)),
            (DELETE_EVERY, "old results deleted", partial(storage.delete_older_than, kept, jobs.RESULTS)),
            (
                DELETE_EVERY,
                "forgotten uploads deleted",
                partial(uploads.forget_uploads, database, storage, UPLOADS_KEPT),
            ),
            (DELETE_EVERY, "old idempotency keys deleted", partial(removals.forget_keys, database, kept)),
        )
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def look_after(database: Database, queue: Queue) -> int:
    """Free the photos whose worker counts as lost, and ring for all that waits: a bell may be lost, and so may all that
    the queue knew. Return how many were freed.
    """
    at = now()
    with database.begin() as session:
        if not locks.try_take(session, locks.SWEEPER):
            return 0  # another host is at it
        freed = claims.free_lost(session, at)
    # Outside of the transaction: the queue may be slow to answer.
    for line in Line:
        if database.ask(claims.something_waits, line, at):
            queue.ring(line)
    return freed


def end_late(database: Database, deadline: timedelta) -> int:
    """End the photos whose callers have stopped to wait, and that no worker took; return how many."""
    return database.run(claims.expire, now() - deadline)


def _look_every(lease: timedelta) -> timedelta:
    return max(LOOK_AT_MOST_EVERY, min(LOOK_AT_LEAST_EVERY, lease / 2))


async def _every(interval: timedelta, name: str, work: Callable[[], int]) -> None:
    """Do `work`, which counts what it did, now and after each interval. What fails is tried again at the next."""
    while True:
        try:
            count = await asyncio.to_thread(work)
            if count:
                log.info(name, count=count)
        except (OperationalError, StorageError) as error:
            cause = error.cause if isinstance(error, StorageError) else error.orig
            log.warning(f"not done: {name}", detail=str(cause or error))
        except Exception:
            log.exception(f"not done: {name}")
        await asyncio.sleep(interval.total_seconds())
