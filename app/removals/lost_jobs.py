"""Jobs that end without a result, among them those whose process died."""

import uuid
from collections.abc import Callable
from datetime import datetime

from sqlalchemy import select

from cutout.app.db.clock import shared_now
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status, now
from cutout.app.jobs import completion
from cutout.app.jobs.lease_renewal import LeaseRenewer

SERVICE_STOPPED = "The service stopped while processing this photo. Nothing was charged; send it again."


def fail(database: Database, job_id: uuid.UUID, code: str, detail: str) -> bool:
    """End a job without a result and give its price back; False if it had ended before."""
    with database.begin() as session:
        return completion.fail(session, job_id, code, detail)


def fail_lost_jobs(
    database: Database, clock: Callable[[], datetime] = now, leases: LeaseRenewer | None = None
) -> int:
    """End the jobs whose process died, and give their price back. Return how many there were.

    Jobs that this process works on (`leases`) are never among them, even if their leases could not be renewed.
    """
    in_work = leases.held() if leases is not None else []
    with database.begin() as session:
        # A job in the queue is not lost with its worker: another worker takes it.
        lost = session.scalars(
            select(Job.id).where(
                Job.status == Status.PROCESSING,
                Job.options.is_(None),
                Job.lease_until < shared_now(session, clock),
                Job.id.not_in(in_work),
            )
        ).all()
    return sum(fail(database, job_id, "INTERNAL", SERVICE_STOPPED) for job_id in lost)
