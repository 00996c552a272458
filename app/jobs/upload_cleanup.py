"""Cleanup of stored uploads that no job needs any more."""

import uuid
from datetime import timedelta

from sqlalchemy import or_, select

from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import queries as jobs
from cutout.app.storage.base import Storage

# Maximum number of jobs in one database query.
JOBS_AT_ONCE = 1000


def forget_uploads(database: Database, storage: Storage, age: timedelta) -> int:
    """Delete uploads older than `age` that no worker will process; return their number.

    Either their job has ended without deleting them, or they have no job, for example because the upload of their batch
    was interrupted.
    """
    old = storage.list_older_than(age, jobs.UPLOADS)
    deleted = 0
    for start in range(0, len(old), JOBS_AT_ONCE):
        some = {key: _owner(key) for key in old[start : start + JOBS_AT_ONCE]}
        in_work = select(Job.id, Job.batch_id).where(
            or_(Job.id.in_(some.values()), Job.batch_id.in_(some.values())),
            Job.status.in_((Status.PENDING, Status.PROCESSING)),
        )
        with database.read() as session:
            kept = {an_id for job in session.execute(in_work) for an_id in job}
        for key, owner in some.items():
            if owner is None or owner not in kept:
                storage.delete(key)
                deleted += 1
    return deleted


def _owner(key: str) -> uuid.UUID | None:
    """Return the id of the job to which an upload belongs, or of the job or the batch that has it as a picture of its
    options; None for the remains of an incomplete write.
    """
    folder, _, name = key.removeprefix(jobs.UPLOADS).rpartition("/")
    try:
        return uuid.UUID(folder if name.startswith(jobs.PICTURE) else name)
    except ValueError:
        return None
