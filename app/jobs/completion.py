"""Ending of jobs. A job ends only once, and its charge is kept or given back in the same transaction.

A job claimed by a worker can only be ended with its `claim`, so a worker whose lease expired cannot end it late. The
charges for the photos of a batch are settled when the batch ends.
"""

import uuid
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from cutout.app.billing import job_charges
from cutout.app.core.errors import shorten
from cutout.app.db.clock import shared_now
from cutout.app.db.committed import count
from cutout.app.db.tables import Job, Status, StoreDelivery, now
from cutout.inference.cutout import Cutout

# The kind of the counts of ended jobs: see `committed`. The tier, the kind of the job and the outcome follow.
JOBS_ENDED = "jobs"
KINDS = SINGLE, BATCH, REFINEMENT = "single", "batch", "refinement"
# The service that a caller waits for delivers the result itself, at once. If it cannot, others do from then on.
FIRST_DELIVERY = timedelta(seconds=60)


def complete(
    session: Session,
    job_id: uuid.UUID,
    cutout: Cutout,
    milliseconds: int,
    *,
    claim: uuid.UUID | None = None,
    sha256: str | None = None,
    options: Mapping[str, object] | None = None,
) -> Job | None:
    """End a job whose result is stored. Return None if it has ended already, or has another claim.

    `options` are written to its row, if it lacks them and its photo is kept.

    If the result goes to a store of its user, it is due there from now on.
    """
    job = _end(
        session,
        job_id,
        claim,
        status=Status.COMPLETED,
        format=cutout.format.value,
        model=cutout.checkpoint,
        backend=cutout.backend,
        substitute=cutout.substitute,
        width=cutout.width,
        height=cutout.height,
        no_foreground=cutout.no_foreground,
        subject=None if cutout.subject is None else asdict(cutout.subject),
        coverage=cutout.coverage,
        uncertainty=cutout.uncertainty,
        needs_review=cutout.needs_review,
        notes=list(cutout.notes),
        milliseconds=milliseconds,
        stage_milliseconds={stage: round(1000 * seconds) for stage, seconds in cutout.seconds.items()},
        sha256=sha256,
        **({} if options is None else {"options": options}),
    )
    if job is not None and job.batch_id is None:
        job_charges.keep(session, job)
    if job is not None and job.has_store:
        at = shared_now(session)
        due_at = at if job.batch_id is not None else at + FIRST_DELIVERY
        session.execute(update(StoreDelivery).where(StoreDelivery.job_id == job.id).values(due_at=due_at))
    return job


def fail(
    session: Session, job_id: uuid.UUID, code: str, detail: str, *, claim: uuid.UUID | None = None
) -> bool:
    """End a job without a result. Return False if it has ended already, or has another claim."""
    job = _end(
        session,
        job_id,
        claim,
        status=Status.FAILED,
        error_code=code,
        error_detail=shorten(detail),
    )
    if job is not None and job.batch_id is None:
        job_charges.give_back(session, job)
    if job is not None and job.has_store:
        session.execute(delete(StoreDelivery).where(StoreDelivery.job_id == job.id))
    return job is not None


def lose(session: Session, job_id: uuid.UUID, detail: str) -> None:
    """Mark a completed photo of a batch as failed, because its result no longer exists.

    Use it only before the batch is charged.
    """
    lost = update(Job).where(Job.id == job_id, Job.batch_id.is_not(None), Job.status == Status.COMPLETED)
    session.execute(
        lost.values(status=Status.FAILED, error_code="INTERNAL", error_detail=shorten(detail), sha256=None)
    )


def _end(session: Session, job_id: uuid.UUID, claim: uuid.UUID | None, **columns: object) -> Job | None:
    ended = (
        update(Job)
        .where(Job.id == job_id, Job.status.in_((Status.PENDING, Status.PROCESSING)))
        .values(finished_at=now(), lease_until=None, claim=None, **columns)
        .returning(Job)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    if claim is not None:
        ended = ended.where(Job.claim == claim)
    job = session.scalars(ended).one_or_none()
    if job is not None:
        count(session, (JOBS_ENDED, job.tier.value, _kind_of(job), job.error_code or "completed"))
    return job


def _kind_of(job: Job) -> str:
    if job.refined_from is not None:
        return REFINEMENT
    return SINGLE if job.batch_id is None else BATCH
