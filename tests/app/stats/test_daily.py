"""Statistics by day, on a history written by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cutout.app.core.errors import InvalidInputError
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, PaidBy, User, now
from cutout.app.stats.daily import MOST_DAYS, Period, daily
from cutout.inference.tiers import Tier
from tests.app.api_client import ADMIN, API, opened_shop
from tests.app.databases import new_user, on_both
from tests.app.stats.test_service import MONDAY, history, job

__all__ = ["history"]

DAYS = f"{API}/admin/stats/days"
WEEK = "since=2026-11-23T00:00:00Z&until=2026-11-30T00:00:00Z"


@on_both
def test_each_day_of_a_week(history: Database, tmp_path: Path) -> None:
    with opened_shop(history, tmp_path) as shop:
        told = shop.get(f"{DAYS}?{WEEK}", ADMIN).raise_for_status().json()
        whole = shop.get(f"{API}/admin/stats?{WEEK}", ADMIN).raise_for_status().json()
    days = told["days"]
    assert [day["day"] for day in days] == [f"2026-11-{number}" for number in range(23, 30)]
    assert [day["removals"] for day in days] == [20, 0, 1, 1, 0, 0, 1]
    assert [day["failed"] for day in days] == [0, 1, 0, 1, 0, 0, 0]
    assert [day["tiers"]["standard"]["removals"] for day in days] == [0, 0, 1, 1, 0, 0, 0]
    assert [day["creditsSpent"] for day in days] == [0, 0, 8, 8, 0, 0, 3]
    assert [day["plansRupiah"] for day in days] == [99_000, 0, 0, 0, 0, 99_000, 0]
    assert [day["revenueRupiah"] for day in days] == [99_000, 0, 800, 800, 0, 99_000, 300]
    for name in ("removals", "failed", "batches", "byQuota", "creditsSpent", "revenueRupiah"):
        assert sum(day[name] for day in days) == whole[name], name


@on_both
def test_a_day_is_one_in_utc_whatever_the_databases_time_zone(database: Database) -> None:
    user = new_user(database)
    last_moment = timedelta(days=1) - timedelta.resolution
    with database.begin() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.connection().exec_driver_sql("SET LOCAL TIME ZONE 'Asia/Jakarta'")
        session.add_all(
            _at(user, MONDAY + offset) for offset in (timedelta(0), last_moment, timedelta(days=1))
        )
        session.flush()
        days = daily(session, Period(MONDAY, MONDAY + timedelta(days=2)))
    assert [day.tiers[Tier.BASIC].removals for day in days] == [2, 1]


def _at(user: User, time: datetime) -> Job:
    made = job(user, Tier.BASIC, 0, paid_by=PaidBy.CREDITS)
    made.created_at = time
    return made


def test_thirty_days_are_told_unless_others_are_asked_for(database: Database, tmp_path: Path) -> None:
    with opened_shop(database, tmp_path) as shop:
        days = shop.get(DAYS, ADMIN).raise_for_status().json()["days"]
        assert len(days) == 30
        assert days[-1]["day"] in (f"{now():%Y-%m-%d}", f"{now() - timedelta(minutes=5):%Y-%m-%d}")
        assert {(day["removals"], day["revenueRupiah"]) for day in days} == {(0, 0)}
        for bad in (
            "since=2026-11-23T00:00:00Z&until=2026-11-23T00:00:00Z",
            "since=2025-01-01T00:00:00Z&until=2026-11-23T00:00:00Z",
            "until=0001-01-03T00:00:00Z",
            "since=9999-12-31T00:00:00Z",
            "since=0001-01-01T00:00:00Z",
            "since=2026-11-23",
        ):
            answer = shop.get(f"{DAYS}?{bad}", ADMIN)
            assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT"), bad


@pytest.mark.parametrize(("days", "fits"), [(MOST_DAYS, True), (MOST_DAYS + 1, False)])
def test_a_period_has_a_longest_length(days: int, fits: bool) -> None:
    at = datetime(2026, 11, 26, 12, tzinfo=UTC)
    span: dict[str, Any] = {"since": at - timedelta(days=days - 1), "until": None, "at": at}
    if fits:
        assert len(Period.of(**span).days) == days
    else:
        with pytest.raises(InvalidInputError, match="366"):
            Period.of(**span)


def test_days_are_counted_and_not_made_before_a_period_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of ten thousand years take seconds, in which the service answers nobody."""
    monkeypatch.setattr(Period, "days", property(lambda _: pytest.fail("the days were made")))
    first, last = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    with pytest.raises(InvalidInputError, match="3652057"):
        Period.of(first, last, last)
