"""Charges for single removals: from the subscription's daily quota while it lasts, else from credits.

A charge is reserved in the transaction that creates the job, and kept or given back in the transaction that ends it. A
job ends only once.
"""

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from cutout.app.billing import ledger, subscriptions
from cutout.app.billing.pricing import CREDITS
from cutout.app.db.tables import Job, PaidBy
from cutout.inference.tiers import Tier


def reserve(
    session: Session,
    user_id: uuid.UUID,
    job_id: uuid.UUID,
    tier: Tier,
    at: datetime,
    *,
    is_free: bool = False,
    frames: int = 1,
) -> tuple[PaidBy, int]:
    """Reserve the price of a job before its work begins. Return how it is paid, and the number of credits held.

    A job that is free or in a free tier takes nothing: as no credits move, there is no row in the ledger. An animation of
    several `frames` costs the price of each, and always credits, as a batch does.

    Raises:
        InsufficientCredits: the quota does not cover the job, and the user has too few credits.

    """
    if is_free or CREDITS[tier] == 0:
        return PaidBy.FREE, 0
    if frames == 1 and subscriptions.reserve(session, user_id, tier, at):
        return PaidBy.QUOTA, 0
    credits = CREDITS[tier] * frames
    ledger.hold(session, user_id, credits, _key(job_id))
    return PaidBy.CREDITS, credits


def keep(session: Session, job: Job) -> None:
    """Make the charge for a completed job final. A charge to the quota is final already, and some jobs are free."""
    if job.paid_by is PaidBy.CREDITS:
        ledger.charge(session, _key(job.id))


def give_back(session: Session, job: Job) -> None:
    """Give back what was reserved for a job that was not completed."""
    if job.paid_by is PaidBy.CREDITS:
        ledger.release(session, _key(job.id))
    elif job.paid_by is PaidBy.QUOTA:
        subscriptions.give_back(session, job.user_id, job.tier, job.created_at)


def _key(job_id: uuid.UUID) -> str:
    return f"job:{job_id}"
