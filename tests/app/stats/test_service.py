"""Statistics on a history written by hand."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, PaidBy, Payment, PaymentStatus, Status, Subscription, User, now
from cutout.app.stats import service as stats
from cutout.app.stats.service import Span, Times, Work
from cutout.inference.tiers import Tier
from tests.app.api_client import ADMIN, ANNA, API, BEN, opened_shop
from tests.app.databases import new_user, on_both

MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
NOTHING = {"removals": 0, "batches": 0, "byQuota": 0, "creditsSpent": 0, "failed": 0}


def job(user: User, tier: Tier, day: int, **changes: Any) -> Job:
    columns: dict[str, Any] = {
        "status": Status.COMPLETED,
        "credits": 0,
        "paid_by": PaidBy.QUOTA,
        "format": "png",
    }
    return Job(user_id=user.id, tier=tier, created_at=MONDAY + timedelta(days=day), **columns | changes)


def paid(user: User, name: str, day: int | None, **item: Any) -> Payment:
    status = PaymentStatus.PENDING if day is None else PaymentStatus.CONFIRMED
    confirmed_at = None if day is None else MONDAY + timedelta(days=day)
    return Payment(payment_id=name, user_id=user.id, status=status, confirmed_at=confirmed_at, **item)


@pytest.fixture
def history(database: Database) -> Database:
    """Write the history of a week, from Monday (0) to Sunday (6): Anna has a plan, Ben has credits."""
    with database.begin() as session:
        anna, ben = (accounts.get_or_create_user(session, Claims(name)) for name in ("anna", "ben"))
        by_credits = {"paid_by": PaidBy.CREDITS}
        session.add_all(
            [
                *(job(anna, Tier.BASIC, 0, milliseconds=100 * number) for number in range(1, 21)),
                job(anna, Tier.BASIC, 6, credits=3, milliseconds=9_000, **by_credits),
                job(anna, Tier.PROFESSIONAL, 1, status=Status.FAILED),
                job(ben, Tier.STANDARD, 2, credits=8, milliseconds=700, **by_credits),
                job(ben, Tier.STANDARD, 3, credits=8, milliseconds=300, **by_credits),
                job(ben, Tier.STANDARD, 3, credits=8, status=Status.FAILED, **by_credits),
                job(ben, Tier.INDUSTRY, 4, credits=25, status=Status.PROCESSING, **by_credits),
            ]
        )
        session.add_all(
            Batch(
                user_id=user.id,
                status=Status.PENDING,
                tier=tier,
                images=2,
                credits=6,
                discount=0,
                discount_percent=0,
                created_at=MONDAY + timedelta(days=day),
            )
            for user, tier, day in (
                (anna, Tier.BASIC, 0),
                (anna, Tier.STANDARD, 5),
                (ben, Tier.STANDARD, 2),
            )
        )
        month = paid(anna, "p1", 0, plan="starter", rupiah=99_000)
        more = paid(anna, "p2", 5, plan="starter", rupiah=99_000)
        session.add_all([month, more, paid(ben, "p3", None, plan="pro", rupiah=299_000)])
        session.add(paid(ben, "p4", 1, credits=500, rupiah=50_000))
        session.flush()
        starts = now() - timedelta(days=1)
        for payment in (month, more):
            ends = starts + timedelta(days=30)
            session.add(
                Subscription(
                    id=payment.id, user_id=anna.id, plan="starter", day=1, starts_at=starts, ends_at=ends
                )
            )
            starts = ends
    return database


def test_ones_own(history: Database, tmp_path: Path) -> None:
    with opened_shop(history, tmp_path) as shop:
        assert shop.get(f"{API}/stats", ANNA).raise_for_status().json() == {
            "removals": 21,
            "batches": 2,
            "byQuota": 20,
            "creditsSpent": 3,
            "failed": 1,
            "tiers": {
                "basic": {"removals": 21, "batches": 1, "byQuota": 20, "creditsSpent": 3, "failed": 0},
                "standard": NOTHING | {"batches": 1},
                "professional": NOTHING | {"failed": 1},
                "industry": NOTHING,
                "preview": NOTHING,
            },
        }
        query = f"{API}/stats?since=2026-11-25T07:00:00%2B07:00&until=2026-11-26T00:00:00Z"
        wednesday = shop.get(query, BEN).json()
        assert (wednesday["creditsSpent"], wednesday["batches"]) == (8, 1), "Wednesday alone, UTC"
        assert shop.get(f"{API}/stats?since=2026-11-25", BEN).status_code == 400


def test_everyones(history: Database, tmp_path: Path) -> None:
    costs = "basic=10,standard=20.5,professional=30,industry=40"
    with opened_shop(history, tmp_path, cost_per_image_rupiah=costs) as shop:
        told = shop.get(f"{API}/admin/stats", ADMIN).raise_for_status().json()
        tiers = told.pop("tiers")
        assert told == {
            "removals": 23,
            "batches": 3,
            "byQuota": 20,
            "creditsSpent": 19,
            "failed": 2,
            "successRate": 0.92,
            "plansRupiah": 198_000,
            "revenueRupiah": 198_000 + 1_900,
            "costRupiah": 251,
            "marginRupiah": 198_000 + 1_900 - 251,
            "activePlans": {"starter": 1, "pro": 0},
        }
        assert tiers["basic"] == {
            "removals": 21,
            "batches": 1,
            "byQuota": 20,
            "creditsSpent": 3,
            "failed": 0,
            "successRate": 1.0,
            "revenueRupiah": 300,
            "costRupiah": 210,
            "marginRupiah": 90,
            "medianMs": 1_100,
            "p95Ms": 2_000,
        }
        assert (tiers["standard"]["medianMs"], tiers["standard"]["p95Ms"]) == (300, 700)
        assert tiers["standard"]["successRate"] == 0.6667
        assert tiers["industry"] == NOTHING | {
            "successRate": None,
            "revenueRupiah": 0,
            "costRupiah": 0,
            "marginRupiah": 0,
            "medianMs": None,
            "p95Ms": None,
        }
        late = shop.get(f"{API}/admin/stats?since=2026-11-28T00:00:00Z", ADMIN).json()
        assert (late["removals"], late["plansRupiah"], late["creditsSpent"]) == (1, 99_000, 3)


@on_both
def test_percentiles_are_of_the_nearest_rank(database: Database) -> None:
    user = new_user(database)
    with database.begin() as session:
        session.add_all(job(user, Tier.BASIC, 0, milliseconds=number) for number in range(100, 0, -1))
        session.add(job(user, Tier.STANDARD, 0, milliseconds=7))
    business = database.run_in_transaction(stats.business, Span(), now())
    assert business.times == {Tier.BASIC: Times(50, 95), Tier.STANDARD: Times(7, 7)}


def test_a_free_preview_is_no_removal_of_its_own() -> None:
    work = {Tier.BASIC: Work(removals=2, credits=6), Tier.PREVIEW: Work(removals=5, failed=1)}
    assert stats.total(work) == Work(removals=2, credits=6)
