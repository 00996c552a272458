"""`/api/background-remover`: usage statistics for the caller and, for admins, for all users."""

import asyncio
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Depends

from cutout.app.auth.dependencies import AdminDep, UserDep
from cutout.app.billing.pricing import PLANS, RUPIAH_PER_CREDIT
from cutout.app.core.schema import Schema
from cutout.app.db.tables import now
from cutout.app.http.dependencies import DatabaseDep, SettingsDep
from cutout.app.http.schemas import UtcTime
from cutout.app.stats import service as stats
from cutout.app.stats.daily import Day, Period, daily
from cutout.app.stats.service import Business, Span, Times, Work
from cutout.inference.tiers import Tier

router = APIRouter(prefix="/api/background-remover", tags=["statistics"])


class WorkInfo(Schema):
    """Counts of completed removals (`byQuota` of them paid by a plan), failed jobs and submitted `batches`, and the
    credits spent on the other removals. A batch's photos count as jobs.
    """

    removals: int
    batches: int
    by_quota: int
    credits_spent: int
    failed: int

    @classmethod
    def of(cls, work: Work) -> "WorkInfo":
        return cls(
            removals=work.removals,
            batches=work.batches,
            by_quota=work.by_quota,
            credits_spent=work.credits,
            failed=work.failed,
        )


class Stats(WorkInfo):
    """Statistics on the caller's jobs. Free previews count in their tier, and not in the total."""

    tiers: dict[Tier, WorkInfo]


class MoneyInfo(WorkInfo):
    """The same counts with revenue, cost and margin."""

    success_rate: float | None
    revenue_rupiah: int
    cost_rupiah: int
    margin_rupiah: int

    @classmethod
    def priced(cls, work: Work, plan_rupiah: int, cost: Decimal) -> "MoneyInfo":
        """Add revenue (credits at their price, plus plans), the host's cost, and the margin to some work."""
        ended = work.removals + work.failed
        revenue, cost_rupiah = work.credits * RUPIAH_PER_CREDIT + plan_rupiah, round(cost)
        return cls(
            **WorkInfo.of(work).model_dump(),
            success_rate=round(work.removals / ended, 4) if ended else None,
            revenue_rupiah=revenue,
            cost_rupiah=cost_rupiah,
            margin_rupiah=revenue - cost_rupiah,
        )


class TierMoney(MoneyInfo):
    """Statistics on one tier. Its revenue counts credits only, because a plan belongs to no tier; its cost includes the
    removals that plans paid for.
    """

    median_ms: int | None
    p95_ms: int | None

    @classmethod
    def of_tier(cls, work: Work, cost: Decimal, times: Times | None) -> "TierMoney":
        priced = MoneyInfo.priced(work, 0, work.removals * cost)
        return cls(
            **priced.model_dump(),
            median_ms=times.median if times else None,
            p95_ms=times.p95 if times else None,
        )


class AdminStats(MoneyInfo):
    """Statistics on the jobs of all users; `plansRupiah` is the part of `revenueRupiah` that plans brought."""

    plans_rupiah: int
    active_plans: dict[str, int]
    tiers: dict[Tier, TierMoney]

    @classmethod
    def of_all(cls, business: Business, costs: dict[Tier, Decimal]) -> "AdminStats":
        cost = sum((work.removals * costs[tier] for tier, work in business.tiers.items()), Decimal())
        priced = MoneyInfo.priced(stats.total(business.tiers), business.plan_rupiah, cost)
        return cls(
            **priced.model_dump(),
            plans_rupiah=business.plan_rupiah,
            active_plans=dict.fromkeys(PLANS, 0) | business.active_plans,
            tiers={
                tier: TierMoney.of_tier(work, costs[tier], business.times.get(tier))
                for tier, work in business.tiers.items()
            },
        )


class DayInfo(WorkInfo):
    """The work of all users that began on a day, in UTC, with its revenue, of which plans brought `plansRupiah`."""

    day: date
    revenue_rupiah: int
    plans_rupiah: int
    tiers: dict[Tier, WorkInfo]

    @classmethod
    def of_day(cls, day: Day) -> "DayInfo":
        work = stats.total(day.tiers)
        return cls(
            **WorkInfo.of(work).model_dump(),
            day=day.day,
            revenue_rupiah=work.credits * RUPIAH_PER_CREDIT + day.plan_rupiah,
            plans_rupiah=day.plan_rupiah,
            tiers={tier: WorkInfo.of(one) for tier, one in day.tiers.items()},
        )


class Days(Schema):
    """The days from `since` to `until`, in order, also those without work."""

    since: datetime
    until: datetime
    days: list[DayInfo]


async def get_span(since: UtcTime | None = None, until: UtcTime | None = None) -> Span:
    return Span(since, until)


SpanDep = Annotated[Span, Depends(get_span)]


@router.get("/stats")
async def get_stats(user: UserDep, database: DatabaseDep, span: SpanDep) -> Stats:
    """Count the caller's removals, failures and credits, in total and by tier, between `since` and `until`."""
    tiers = await asyncio.to_thread(database.run_read_only, stats.work, user.id, span)
    in_all = WorkInfo.of(stats.total(tiers))
    return Stats(**in_all.model_dump(), tiers={tier: WorkInfo.of(work) for tier, work in tiers.items()})


@router.get("/admin/stats")
async def get_admin_stats(
    _: AdminDep, database: DatabaseDep, settings: SettingsDep, span: SpanDep
) -> AdminStats:
    """Count the removals of all users, with times, revenue, cost and margin. For admins."""
    business = await asyncio.to_thread(database.run_read_only, stats.business, span, now())
    return AdminStats.of_all(business, settings.cost_per_image_rupiah)


@router.get("/admin/stats/days")
async def get_admin_days(
    _: AdminDep, database: DatabaseDep, since: UtcTime | None = None, until: UtcTime | None = None
) -> Days:
    """Count the removals and the revenue of all users by day, in UTC. For admins.

    Without `since` and `until`, these are the last 30 days, including today; there are at most 366.
    """
    period = Period.of(since, until, now())
    days = await asyncio.to_thread(database.run_read_only, daily, period)
    return Days(since=period.since, until=period.until, days=[DayInfo.of_day(day) for day in days])
