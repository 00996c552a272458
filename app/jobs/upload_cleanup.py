"""Cleanup of stored uploads that no job needs any more."""

import uuid
from datetime import timedelta

from sqlalchemy import select

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
        some = {key: _job_id(key) for key in old[start : start + JOBS_AT_ONCE]}
        waited_for = select(Job.id).where(
            Job.id.in_(some.values()), Job.status.in_((Status.PENDING, Status.PROCESSING))
        )
        with database.read() as session:
            kept = set(session.scalars(waited_for))
        for key, job_id in some.items():
            if job_id not in kept:
                storage.delete(key)
                deleted += 1
    return deleted


def _job_id(key: str) -> uuid.UUID | None:
    """Return the id of the job to which an upload belongs; None for the remains of an incomplete write."""
    try:
        return uuid.UUID(key.rpartition("/")[2])
    except ValueError:
        return None
