"""How a removal is paid: of the subscription's quota while that lasts, else of credits.

Taken in the transaction that writes the job, kept or given back in the one that ends it, which happens once.
"""

import uuid
from datetime import datetime

from sqlalchemy.orm import Session

from cutout.app.billing import ledger, subscriptions
from cutout.app.billing.pricing import CREDITS
from cutout.app.db.tables import Job, PaidBy
from cutout.inference.tiers import Tier


def reserve(
    session: Session, user_id: uuid.UUID, job_id: uuid.UUID, tier: Tier, at: datetime
) -> tuple[PaidBy, int]:
    """Take what a job costs before its work begins: of what, and how many credits.

    Raises:
        InsufficientCredits: the quota does not pay for it, and the user has too few credits.

    """
    if subscriptions.reserve(session, user_id, tier, at):
        return PaidBy.QUOTA, 0
    ledger.hold(session, user_id, CREDITS[tier], _key(job_id))
    return PaidBy.CREDITS, CREDITS[tier]


def keep(session: Session, job: Job) -> None:
    """Make final what was taken for a job: the work was done. What is of the quota is so already."""
    if job.paid_by is PaidBy.CREDITS:
        ledger.charge(session, _key(job.id))


def give_back(session: Session, job: Job) -> None:
    """Give back what was taken for a job: the work was not done."""
    if job.paid_by is PaidBy.CREDITS:
        ledger.release(session, _key(job.id))
    else:
        subscriptions.give_back(session, job.user_id, job.tier, job.created_at)


def _key(job_id: uuid.UUID) -> str:
    return f"job:{job_id}"
