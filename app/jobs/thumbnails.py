"""Thumbnails of results: made when they are first asked for, stored, and deleted with their result."""

import threading
import uuid
from collections.abc import Iterable
from contextlib import nullcontext
from datetime import timedelta

from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import queries as jobs
from cutout.app.storage.base import Storage
from cutout.inference.errors import InvalidPhoto
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.thumbnail import small_copy

THUMBNAILS = "thumbnails/"
MAKING = BoundedExecutor("thumbnails", threads=2, waiting=200, retry_after=2, low_priority=True)
# A decoded result takes 4 to 16 bytes a pixel, depending on its format. Larger ones than this are decoded one by one.
MOST_PIXELS_AT_ONCE = 8_000_000
_one_large = threading.Lock()


def thumbnail_key(job_id: uuid.UUID) -> str:
    """Return the storage key of the thumbnail of a job's result."""
    return f"{THUMBNAILS}{job_id}.webp"


async def thumbnail(
    database: Database, storage: Storage, job_id: uuid.UUID, owner: uuid.UUID | None
) -> bytes | None:
    """Return a WebP of a job's result, or None if there is no result that can be read, or `owner` may not read it.

    Raises:
        AccountDisabled: see `queries.find_readable`.
        Overloaded: too many thumbnails are being made.

    """

    def find() -> tuple[Job | None, bytes | None]:
        job = jobs.find_readable(database, job_id, owner)
        if job is None or job.status is not Status.COMPLETED:
            return None, None
        return job, storage.get(thumbnail_key(job_id))

    job, stored = await to_storage_thread(find)
    if job is None or stored is not None:
        return stored
    return await MAKING.run(_make, storage, job)


def _make(storage: Storage, job: Job) -> bytes | None:
    is_large = (job.width or 0) * (job.height or 0) > MOST_PIXELS_AT_ONCE
    with _one_large if is_large else nullcontext():
        # Another call may have made it while this one waited.
        return storage.get(thumbnail_key(job.id)) or _made(storage, job)


def _made(storage: Storage, job: Job) -> bytes | None:
    key = jobs.result_key_of(job)
    result = storage.get(key)
    if result is None:
        return None
    try:
        made = small_copy(result, Format(job.format))
    except InvalidPhoto:
        return None
    storage.put(thumbnail_key(job.id), made)
    # Results are deleted before their thumbnails, so the thumbnail of one that is still there will be, too.
    if storage.stream(key) is None:
        storage.delete(thumbnail_key(job.id))
        return None
    return made


def delete_old_results(storage: Storage, age: timedelta) -> int:
    """Delete results that are older than `age`, with their thumbnails; return the number of the results.

    Raises:
        StorageError: the storage does not answer.

    """
    old = storage.list_older_than(age, jobs.RESULTS)
    deleted = storage.delete_older_than(age, jobs.RESULTS)
    if old:
        theirs = set(_thumbnails_of(old))
        for key in theirs.intersection(storage.list_older_than(timedelta(0), THUMBNAILS)):
            storage.delete(key)
    # Those that a stop of the service left.
    storage.delete_older_than(age, THUMBNAILS)
    return deleted


def _thumbnails_of(results: Iterable[str]) -> Iterable[str]:
    # A result is named by its job's id, perhaps an attempt, and its format.
    names = (key.removeprefix(jobs.RESULTS) for key in results)
    return (f"{THUMBNAILS}{name[:36]}.webp" for name in names)
