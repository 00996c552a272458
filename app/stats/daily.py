"""Usage and revenue by day, in UTC."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import Date, func, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import Session
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from cutout.app.core.errors import InvalidInputError
from cutout.app.db.tables import Batch, Job, Payment
from cutout.app.stats.service import Span, Work, jobs_in, plans_in
from cutout.inference.tiers import Tier

USUAL_DAYS, MOST_DAYS = 30, 366
DAY = timedelta(days=1)


class UtcDay(FunctionElement[date]):
    """The day, in UTC, of a column of times."""

    type = Date()
    inherit_cache = True


@compiles(UtcDay)
def _of_times(day: UtcDay, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST({compiler.process(day.clauses, **options)} AT TIME ZONE 'UTC' AS DATE)"


@compiles(UtcDay, "sqlite")
def _of_texts(day: UtcDay, compiler: SQLCompiler, **options: Any) -> str:
    # Its functions for times round a day's last half millisecond up to the next day.
    return f"substr({compiler.process(day.clauses, **options)}, 1, 10)"


@dataclass(frozen=True)
class Day:
    """The work that began on a day, in each tier, and the revenue from plans whose payment was confirmed on it."""

    day: date
    tiers: dict[Tier, Work]
    plan_rupiah: int


@dataclass(frozen=True)
class Period:
    """A span of time with two ends, in UTC: it includes `since` and excludes `until`."""

    since: datetime
    until: datetime

    @classmethod
    def of(cls, since: datetime | None, until: datetime | None, at: datetime) -> "Period":
        """Return a period that ends at time `at` unless `until` is given, and has `USUAL_DAYS` days unless `since` is.

        Raises:
            InvalidInputError: the period ends before it begins, or has more than `MOST_DAYS` days.

        """
        until = until or at
        try:
            since = since or datetime.combine(until, datetime.min.time(), UTC) - (USUAL_DAYS - 1) * DAY
        except OverflowError:
            raise InvalidInputError("until: Give a later time.") from None
        if since >= until:
            raise InvalidInputError("since: Give a time before `until`.")
        period = cls(since, until)
        count = (period._last - since.date()).days + 1
        if count > MOST_DAYS:
            raise InvalidInputError(
                f"since: A period has at most {MOST_DAYS} days, but this one has {count}. Give a later time."
            )
        return period

    @property
    def days(self) -> list[date]:
        """The days that the period touches."""
        first = self.since.date()
        return [first + number * DAY for number in range((self._last - first).days + 1)]

    @property
    def _last(self) -> date:
        return (self.until - timedelta.resolution).date()


def daily(session: Session, period: Period) -> list[Day]:
    """Return each day of a period in order, also those without work. Reads in the caller's transaction."""
    span = Span(period.since, period.until)
    work = {day: {tier: Work() for tier in Tier} for day in period.days}
    plans = dict.fromkeys(work, 0)
    kinds = UtcDay(Job.created_at), Job.tier, Job.paid_by, Job.status
    jobs = jobs_in(span, *kinds, func.count(), func.sum(Job.credits)).group_by(*kinds)
    for day, tier, *counted in session.execute(jobs):
        work[day][tier] += Work.of(*counted)
    kind = UtcDay(Batch.created_at), Batch.tier
    batches = select(*kind, func.count()).where(*span.holds(Batch.created_at)).group_by(*kind)
    for day, tier, count in session.execute(batches):
        work[day][tier] += Work(batches=count)
    paid_on = UtcDay(Payment.confirmed_at)
    paid = plans_in(span, paid_on, func.sum(Payment.rupiah)).group_by(paid_on)
    plans |= dict(session.execute(paid).all())
    return [Day(day, tiers, plans[day]) for day, tiers in work.items()]
