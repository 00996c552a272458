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

from app.db.session import Database
from app.services import jobs, removals, uploads
from app.storage import Storage, StorageError

log = structlog.get_logger()

SETTLE_EVERY = timedelta(seconds=30)
DELETE_EVERY = timedelta(hours=1)
# A batch has no jobs before its last photo has come, and 2 GB may take that long.
UPLOADS_KEPT = timedelta(hours=3)


@asynccontextmanager
async def sweeping(database: Database, storage: Storage, kept: timedelta) -> AsyncIterator[None]:
    """Settle lost jobs, and delete results and idempotency keys older than `kept` and uploads that nobody needs, until
    the end of the block.
    """
    tasks = [
        asyncio.create_task(_every(interval, name, work))
        for interval, name, work in (
            (SETTLE_EVERY, "lost jobs settled", partial(removals.settle_lost, database)),
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
