"""Usage and revenue, over jobs created and payments confirmed in a span of time.

All functions read in the caller's transaction. A job counts once it has ended, at the time when it was created.
"""

import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from cutout.app.db.tables import Batch, Job, PaidBy, Payment, PaymentStatus, Status, Subscription
from cutout.inference.tiers import SOLD, Tier


@dataclass(frozen=True)
class Span:
    """A span of time that includes `since` and excludes `until`; either may be open."""

    since: datetime | None = None
    until: datetime | None = None

    def holds(self, column: "InstrumentedAttribute[Any]") -> list[ColumnElement[bool]]:
        """Return the conditions for a time column to lie within the span."""
        since = [] if self.since is None else [column >= self.since]
        return since if self.until is None else [*since, column < self.until]


@dataclass(frozen=True)
class Work:
    """Counts of completed removals and how they were paid, of failed jobs, and of batches; for one tier or in total."""

    removals: int = 0
    batches: int = 0
    by_quota: int = 0
    failed: int = 0
    credits: int = 0

    @classmethod
    def of(cls, paid_by: PaidBy, status: Status, count: int, credits: int) -> "Work":
        """Return what `count` jobs of this status are, with the credits that they cost together."""
        if status is Status.COMPLETED:
            by_quota = count if paid_by is PaidBy.QUOTA else 0
            return cls(removals=count, by_quota=by_quota, credits=credits)
        return cls(failed=count) if status is Status.FAILED else cls()

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.removals + other.removals,
            self.batches + other.batches,
            self.by_quota + other.by_quota,
            self.failed + other.failed,
            self.credits + other.credits,
        )


@dataclass(frozen=True)
class Times:
    """Median and 95th percentile of the processing times of a tier, in milliseconds."""

    median: int
    p95: int


@dataclass(frozen=True)
class Business:
    """The work of all users, with its times and revenue."""

    tiers: dict[Tier, Work]
    times: dict[Tier, Times] = field(default_factory=dict)
    plan_rupiah: int = 0
    active_plans: dict[str, int] = field(default_factory=dict)


def work(session: Session, user_id: uuid.UUID | None, span: Span) -> dict[Tier, Work]:
    """Return the work in each tier, for one user or for all."""
    rows = jobs_in(span, Job.tier, Job.paid_by, Job.status, func.count(), func.sum(Job.credits)).group_by(
        Job.tier, Job.paid_by, Job.status
    )
    if user_id is not None:
        rows = rows.where(Job.user_id == user_id)
    tiers = {tier: Work() for tier in Tier}
    for tier, *counted in session.execute(rows):
        tiers[tier] += Work.of(*counted)
    handed_in = select(Batch.tier, func.count()).where(*span.holds(Batch.created_at)).group_by(Batch.tier)
    if user_id is not None:
        handed_in = handed_in.where(Batch.user_id == user_id)
    for tier, count in session.execute(handed_in):
        tiers[tier] += Work(batches=count)
    return tiers


def total(tiers: dict[Tier, Work]) -> Work:
    """Return the work in all sold tiers together: a free preview is a part of the removal that follows it."""
    return sum((tiers[tier] for tier in SOLD if tier in tiers), Work())


def business(session: Session, span: Span, at: datetime) -> Business:
    """Return the work of all users, with times and plan revenue; counts the plans active at time `at`."""
    paid = plans_in(span, func.coalesce(func.sum(Payment.rupiah), 0))
    active = (
        select(Subscription.plan, func.count(Subscription.user_id.distinct()))
        .where(Subscription.ends_at > at)
        .group_by(Subscription.plan)
    )
    return Business(
        work(session, None, span),
        _times(session, span),
        session.scalar(paid) or 0,
        dict(session.execute(active).all()),
    )


def _times(session: Session, span: Span) -> dict[Tier, Times]:
    """Return the percentiles of each tier. The database ranks the times and returns two numbers per tier."""
    ranked = (
        jobs_in(
            span,
            Job.tier,
            Job.milliseconds,
            func.row_number().over(partition_by=Job.tier, order_by=Job.milliseconds).label("rank"),
            func.count().over(partition_by=Job.tier).label("count"),
        )
        .where(Job.status == Status.COMPLETED, Job.milliseconds.is_not(None))
        .subquery()
    )

    def percentile(percent: int) -> ColumnElement[int]:
        nearest = (ranked.c.count * percent + 99) // 100
        return func.max(case((ranked.c.rank == nearest, ranked.c.milliseconds)))

    rows = select(ranked.c.tier, percentile(50), percentile(95)).group_by(ranked.c.tier)
    return {tier: Times(median, p95) for tier, median, p95 in session.execute(rows)}


def jobs_in(span: Span, *columns: Any) -> Select[Any]:
    """Return a query for these columns of the jobs that count, created in a span of time."""
    # A free refinement is a part of the removal that it corrects.
    counts = or_(Job.refined_from.is_(None), Job.paid_by != PaidBy.FREE)
    return select(*columns).where(counts, *span.holds(Job.created_at))


def plans_in(span: Span, *columns: Any) -> Select[Any]:
    """Return a query for these columns of the payments for plans that were confirmed in a span of time."""
    return select(*columns).where(
        Payment.status == PaymentStatus.CONFIRMED,
        Payment.plan.is_not(None),
        *span.holds(Payment.confirmed_at),
    )
