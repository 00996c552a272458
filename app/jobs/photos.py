"""The kept photos of jobs, as browsers show them."""

import uuid
from dataclasses import dataclass

from pydantic import ValidationError

from cutout.app.core.bounded_executor import BoundedExecutor
from cutout.app.core.shares import Shares
from cutout.app.core.threads import to_storage_thread
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import queries as jobs
from cutout.app.jobs.leases import OPTIONS
from cutout.app.jobs.originals import original_key
from cutout.app.storage.base import Storage, StorageError
from cutout.inference.errors import InvalidPhoto, MasksUnusable
from cutout.inference.imaging.browser import for_browsers
from cutout.inference.limits import SizeLimits
from cutout.inference.masked_photo import photo_in

# Each holds a photo that its caller did not send, so the limit for uploads does not count it.
READING = BoundedExecutor("photos", threads=2, waiting=30, retry_after=2, low_priority=True)
# A large photo that has to be turned takes seconds, each time.
SHARES = Shares(8, "Too many of your photos are being read. Try again in a moment.")


@dataclass(frozen=True)
class PhotoOfJob:
    """What is known of a job's photo: whether it is kept, and whether the result lies exactly over it, once both have the
    same size. `is_corrected` says that the job refines another one with other hints than that had.
    """

    is_kept: bool = False
    is_in_place: bool = False
    is_corrected: bool = False


def look_up(database: Database, storage: Storage, job: Job) -> PhotoOfJob:
    """Return what is known of a job's photo. If the storage does not answer, it counts as not kept."""
    first = _first_of(database, job)
    if first is None or first.options is None or job.status is not Status.COMPLETED:
        return PhotoOfJob()
    try:
        # Jobs of older versions that refined a result have no options. They could change nothing but the hints.
        options = OPTIONS.validate_python(job.options or first.options)
        is_corrected = job.options is None or options.hints != OPTIONS.validate_python(first.options).hints
    except ValidationError:  # an option has another form now
        return PhotoOfJob()
    try:
        is_kept = storage.stream(original_key(first.id)) is not None
    except StorageError:
        is_kept = False
    return PhotoOfJob(is_kept, not options.layout.moves, is_corrected)


async def photo(
    database: Database, storage: Storage, job_id: uuid.UUID, owner: uuid.UUID | None, sizes: SizeLimits
) -> tuple[bytes, str] | None:
    """Return a job's photo as `for_browsers` does; None if it is not kept, or `owner` may not read it.

    Raises:
        AccountDisabled: see `queries.find_readable`.
        Overloaded: too many photos are being read.
        OverloadedError: too many of them are this user's.

    """

    def find() -> Job | None:
        job = jobs.find_readable(database, job_id, owner)
        first = None if job is None else _first_of(database, job)
        return None if first is None or first.status is not Status.COMPLETED else first

    first = await to_storage_thread(find)
    if first is None:
        return None
    with SHARES.one(first.user_id):
        return await READING.run(_read, storage, first.id, sizes)


def _first_of(database: Database, job: Job) -> Job | None:
    """Return the job that has the photo of this one, which is another where this one refines its result."""
    return job if job.refined_from is None else jobs.find(database, job.user_id, job.refined_from)


def _read(storage: Storage, first: uuid.UUID, sizes: SizeLimits) -> tuple[bytes, str] | None:
    kept = storage.get(original_key(first))
    if kept is None:
        return None
    try:
        return for_browsers(photo_in(kept), sizes)
    except (InvalidPhoto, MasksUnusable):
        return None
