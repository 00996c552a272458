"""The users of the service, for an admin: who they are, what they have and how much they use."""

import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.orm import Session

from cutout.app.db.tables import Job, Status, Subscription, User
from cutout.app.stats.service import Span, jobs_in
from cutout.inference.tiers import SOLD

RECENT = timedelta(days=30)


@dataclass(frozen=True)
class Account:
    """A user, the last paid month of their plan if it has not ended, and the number of their removals in `RECENT`."""

    user: User
    month: Subscription | None
    removals: int


def page(
    session: Session, search: str, limit: int, offset: int, at: datetime
) -> tuple[int, Sequence[Account]]:
    """Return how many users match `search`, and a page of them, newest first. Deleted users are left out.

    Reads in the caller's transaction; `at` is the current time. A user matches by a part of their e-mail address or
    `sub`, in any case of letters, or by their whole id.
    """
    there = User.deleted_at.is_(None), *_matching(search.strip())
    total = session.scalar(select(func.count()).select_from(User).where(*there)) or 0
    rows = select(User).where(*there).order_by(User.created_at.desc(), User.id).limit(limit).offset(offset)
    users = session.scalars(rows).all()
    ids = [user.id for user in users]
    months = select(Subscription).where(Subscription.user_id.in_(ids), Subscription.ends_at > at)
    plans = {month.user_id: month for month in session.scalars(months.order_by(Subscription.ends_at))}
    done = jobs_in(Span(since=at - RECENT), Job.user_id, func.count()).where(
        Job.user_id.in_(ids), Job.status == Status.COMPLETED, Job.tier.in_(SOLD)
    )
    removals: dict[uuid.UUID, int] = dict(session.execute(done.group_by(Job.user_id)).all())
    return total, [Account(user, plans.get(user.id), removals.get(user.id, 0)) for user in users]


def _matching(search: str) -> list[ColumnElement[bool]]:
    if not search:
        return []
    # `%` and `_` stand for themselves.
    ways = [column.icontains(search, autoescape=True) for column in (User.subject, User.email)]
    with suppress(ValueError):
        ways.append(User.id == uuid.UUID(search))
    return [or_(*ways)]
