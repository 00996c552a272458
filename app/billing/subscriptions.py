"""Subscriptions: paid months of a plan, and the daily quota of removals that they include. Days are in UTC.

All functions run in the caller's transaction, which the caller commits; `at` is the current time.
"""

import uuid
from calendar import monthrange
from dataclasses import dataclass
from datetime import UTC, date, datetime

from sqlalchemy import ColumnElement, bindparam, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cutout.app.billing.pricing import PLANS
from cutout.app.core.errors import ConflictError
from cutout.app.db.tables import Payment, PaymentStatus, Subscription, SubscriptionUsage, User
from cutout.inference.tiers import Tier

# Built only once, because every removal runs it.
PRESENT = (
    select(Subscription)
    .where(Subscription.user_id == bindparam("who"), Subscription.ends_at > bindparam("at"))
    .order_by(Subscription.ends_at.desc())
    .limit(1)
)


class AnotherPlan(ConflictError):
    """A user who has a plan tries to buy another one before it ends."""

    def __init__(self, present: Subscription) -> None:
        super().__init__(
            f"The plan {present.plan} is paid until {present.ends_at:%Y-%m-%d %H:%M} UTC. You can extend it"
            " now, or buy another plan after it has ended."
        )


@dataclass(frozen=True)
class SubscriptionStatus:
    """A user's plan, if any, its use today, and the purchases that wait for confirmation."""

    present: Subscription | None
    day: date
    used: int
    professional: int
    pending: list[Payment]

    @property
    def left(self) -> int:
        return max(0, PLANS[self.present.plan].removals_per_day - self.used) if self.present else 0

    @property
    def professional_left(self) -> int:
        """How many of the removals left today may use the professional tier."""
        plan = PLANS[self.present.plan] if self.present else None
        if plan is None or Tier.PROFESSIONAL not in plan.tiers:
            return 0
        limit = plan.professional_per_day
        return self.left if limit is None else min(self.left, max(0, limit - self.professional))


def present(session: Session, user_id: uuid.UUID, at: datetime) -> Subscription | None:
    """Return the user's last paid month that has not ended, or None if there is none."""
    return session.scalars(PRESENT, {"who": user_id, "at": at}).one_or_none()


def require_no_other(session: Session, user_id: uuid.UUID, plan: str, at: datetime) -> Subscription | None:
    """Return the same as `present`, after checking that it belongs to this plan.

    Raises:
        AnotherPlan: the user has another plan.

    """
    paid = present(session, user_id, at)
    if paid is not None and paid.plan != plan:
        raise AnotherPlan(paid)
    return paid


def add_month(session: Session, payment: Payment, plan: str, at: datetime) -> Subscription:
    """Begin a plan that was paid for, or extend it by a month.

    Raises:
        AnotherPlan: the user has another plan.

    """
    # Lock the user's row to serialize concurrent payments, so that no month is lost and there are never two plans.
    user = select(User.id).where(User.id == payment.user_id).with_for_update(key_share=True)
    session.execute(user)
    paid = require_no_other(session, payment.user_id, plan, at)
    starts_at = paid.ends_at if paid else at
    day = paid.day if paid else at.astimezone(UTC).day
    month = Subscription(
        id=payment.id,
        user_id=payment.user_id,
        plan=plan,
        day=day,
        starts_at=starts_at,
        ends_at=month_later(starts_at, day),
    )
    session.add(month)
    session.flush()
    return month


def month_later(start: datetime, day: int) -> datetime:
    """Return the same time on `day` of the next calendar month, or on its last day if the month is shorter."""
    start = start.astimezone(UTC)
    year, month = start.year + start.month // 12, start.month % 12 + 1
    return start.replace(year=year, month=month, day=min(day, monthrange(year, month)[1]))


def cancel(session: Session, user_id: uuid.UUID, reason: str | None, at: datetime) -> Subscription | None:
    """Cancel a plan at the end of its paid time. Return None if there is no plan. Repeating it has no effect."""
    paid = present(session, user_id, at)
    if paid is not None and paid.cancelled_at is None:
        paid.cancelled_at, paid.cancel_reason = at, reason
    return paid


def subscription_status(session: Session, user_id: uuid.UUID, at: datetime) -> SubscriptionStatus:
    """Return a user's plan and the use of today's quota."""
    day = at.astimezone(UTC).date()
    usage = session.get(SubscriptionUsage, (user_id, day))
    pending = select(Payment).where(Payment.user_id == user_id, Payment.status == PaymentStatus.PENDING)
    return SubscriptionStatus(
        present(session, user_id, at),
        day,
        usage.used if usage else 0,
        usage.professional if usage else 0,
        list(session.scalars(pending.order_by(Payment.created_at))),
    )


def reserve(session: Session, user_id: uuid.UUID, tier: Tier, at: datetime) -> bool:
    """Take one removal from today's quota. Return False without a plan for this tier, or if its quota is used up."""
    paid = present(session, user_id, at)
    plan = None if paid is None else PLANS[paid.plan]
    if plan is None or tier not in plan.tiers:
        return False
    day = at.astimezone(UTC).date()
    professional = _professional(tier)
    limits: list[ColumnElement[bool]] = [SubscriptionUsage.used < plan.removals_per_day]
    if professional and plan.professional_per_day is not None:
        limits.append(SubscriptionUsage.professional < plan.professional_per_day)
    if session.get(SubscriptionUsage, (user_id, day)) is None:
        _write_day(session, user_id, day)
    return _count(session, user_id, day, 1, professional, *limits)


def give_back(session: Session, user_id: uuid.UUID, tier: Tier, at: datetime) -> None:
    """Return a removal to the quota of the day on which it was reserved."""
    if not _count(session, user_id, at.astimezone(UTC).date(), -1, -_professional(tier)):
        raise LookupError(f"user {user_id} has no usage on {at:%Y-%m-%d}")


def _count(
    session: Session,
    user_id: uuid.UUID,
    day: date,
    used: int,
    professional: int,
    *limits: ColumnElement[bool],
) -> bool:
    counted = (
        update(SubscriptionUsage)
        .where(SubscriptionUsage.user_id == user_id, SubscriptionUsage.day == day, *limits)
        .values(
            used=SubscriptionUsage.used + used, professional=SubscriptionUsage.professional + professional
        )
        .returning(SubscriptionUsage.used)
        .execution_options(synchronize_session=False)
    )
    return session.scalar(counted) is not None


def _write_day(session: Session, user_id: uuid.UUID, day: date) -> None:
    try:
        with session.begin_nested():
            session.add(SubscriptionUsage(user_id=user_id, day=day, used=0, professional=0))
    except IntegrityError:
        pass  # another transaction has just added the row


def _professional(tier: Tier) -> int:
    return int(tier is Tier.PROFESSIONAL)
