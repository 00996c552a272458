"""Daily quotas: never exceed the plan, are given back once if a removal fails, and are followed by credits."""

import asyncio
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from cutout.app.billing import job_charges, ledger, payments, subscriptions
from cutout.app.billing.ledger import InsufficientCredits
from cutout.app.billing.payments import Item, Purchase
from cutout.app.billing.pricing import PLANS, Plan
from cutout.app.billing.subscriptions import AnotherPlan, month_later
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, PaidBy, Status, Subscription, SubscriptionUsage, User
from cutout.app.jobs import completion
from cutout.app.removals import lost_jobs
from cutout.app.removals import service as removals
from cutout.app.removals.request import RemovalContext
from cutout.inference.cutout import Cutout
from cutout.inference.errors import UnsupportedFormat
from cutout.inference.imaging.encode import Format
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from tests.app.api_client import engine_of, place_of, reserved
from tests.app.databases import new_user, on_both
from tests.fakes import FakeRunner, photo_bytes

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
TODAY = NOON.date()
DONE = Cutout(b"", Format.PNG, 4, 3, False, Tier.BASIC, "isnet-general", True, "fake")


@dataclass
class Clock:
    """A clock that the test sets."""

    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at


def subscribe(database: Database, user: User, plan: str, at: datetime = NOON) -> Purchase:
    return database.run_in_transaction(
        payments.buy, user, Item(plan=plan), f"pay-{uuid.uuid4()}", settled=True, at=at
    )


def subscriber(database: Database, plan: str, funds: int = 0) -> User:
    """Add a user with a plan, and optionally with credits."""
    user = new_user(database, f"user-{uuid.uuid4()}")
    subscribe(database, user, plan)
    if funds:
        database.run_in_transaction(ledger.grant, user.id, funds, f"grant:{user.id}")
    return user


def pay(database: Database, user: User, tier: Tier, at: datetime = NOON) -> PaidBy | None:
    """Reserve a removal; return what pays for it, or None if neither quota nor credits suffice."""
    try:
        return database.run_in_transaction(job_charges.reserve, user.id, uuid.uuid4(), tier, at)[0]
    except InsufficientCredits:
        return None


def used(database: Database, user: User, day: date = TODAY) -> tuple[int, int]:
    """Return how many removals of a day the quota has paid for, and how many of those are professional."""
    with database.begin() as session:
        usage = session.get(SubscriptionUsage, (user.id, day))
        return (usage.used, usage.professional) if usage else (0, 0)


def at_once(database: Database, user: User, tiers: list[Tier]) -> Counter[tuple[Tier, PaidBy | None]]:
    with ThreadPoolExecutor(40) as pool:
        return Counter(zip(tiers, pool.map(lambda tier: pay(database, user, tier), tiers), strict=True))


@on_both
def test_a_hundred_at_once_with_fifty_a_day(database: Database) -> None:
    user = subscriber(database, "starter")
    assert at_once(database, user, [Tier.BASIC] * 100) == {
        (Tier.BASIC, PaidBy.QUOTA): 50,
        (Tier.BASIC, None): 50,
    }
    assert used(database, user) == (50, 0)


@on_both
def test_a_hundred_at_once_with_fifty_professional_a_day(database: Database) -> None:
    user = subscriber(database, "pro", funds=15 * 20)
    assert at_once(database, user, [Tier.PROFESSIONAL] * 100) == {
        (Tier.PROFESSIONAL, PaidBy.QUOTA): 50,
        (Tier.PROFESSIONAL, PaidBy.CREDITS): 20,
        (Tier.PROFESSIONAL, None): 30,
    }
    assert used(database, user) == (50, 50)
    with database.begin() as session:
        assert ledger.balance(session, user.id) == 0
        assert ledger.discrepancies(session) == {}
    assert pay(database, user, Tier.STANDARD) is PaidBy.QUOTA, "other tiers go on"


@on_both
def test_both_limits_hold_together(database: Database) -> None:
    user = subscriber(database, "pro")
    pay(database, user, Tier.BASIC)
    with database.begin() as session:
        session.execute(update(SubscriptionUsage).values(used=160, professional=30))
    outcomes = at_once(database, user, [Tier.PROFESSIONAL, Tier.BASIC] * 30)
    assert outcomes[Tier.PROFESSIONAL, PaidBy.QUOTA] + outcomes[Tier.BASIC, PaidBy.QUOTA] == 40
    assert used(database, user) == (200, 30 + outcomes[Tier.PROFESSIONAL, PaidBy.QUOTA])
    assert outcomes[Tier.PROFESSIONAL, PaidBy.QUOTA] <= 20


@on_both
def test_a_tier_that_the_plan_does_not_have_costs_credits(database: Database) -> None:
    user = subscriber(database, "starter", funds=25)
    assert pay(database, user, Tier.PROFESSIONAL) is PaidBy.CREDITS
    assert pay(database, user, Tier.INDUSTRY) is None
    assert used(database, user) == (0, 0)


@on_both
def test_the_day_turns_at_midnight_utc_and_a_removal_goes_back_to_its_own(
    database: Database, tmp_path: Path
) -> None:
    user = subscriber(database, "starter")
    clock = Clock(datetime(2026, 11, 24, 23, 59, 59, 999999, tzinfo=UTC))
    place = replace(place_of(database, tmp_path, FakeRunner()), clock=clock)
    jobs = [reserved(place, user.id, b"", Options())[0] for _ in range(50)]
    with pytest.raises(InsufficientCredits):
        reserved(place, user.id, b"", Options())
    clock.at += timedelta(microseconds=1)
    reserved(place, user.id, b"", Options())
    assert lost_jobs.fail(database, jobs[0], "INTERNAL", "broken")
    assert used(database, user) == (49, 0)
    assert used(database, user, date(2026, 11, 25)) == (1, 0)
    engine_of(place).close()


@on_both
def test_credits_take_over_where_the_quota_ends(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PLANS, "small", Plan(1, 2, (Tier.BASIC,)))
    user = subscriber(database, "small", funds=3)
    place = replace(place_of(database, tmp_path, FakeRunner()), clock=Clock())

    def remove() -> Job:
        return asyncio.run(removals.remove_one(place, user.id, photo_bytes(), Options()))[0]

    jobs = [remove() for _ in range(3)]
    assert [(job.paid_by.value, job.credits) for job in jobs] == [("quota", 0), ("quota", 0), ("credits", 3)]
    with pytest.raises(InsufficientCredits):
        remove()
    engine_of(place).close()
    with database.begin() as session:
        assert [entry.movement.value for entry in ledger.ledger(session, user.id)] == [
            "charge",
            "hold",
            "grant",
        ]


@on_both
def test_what_fails_goes_back_to_the_quota_once(database: Database, tmp_path: Path) -> None:
    user = subscriber(database, "pro")
    place = replace(place_of(database, tmp_path, FakeRunner()), clock=Clock())
    options = Options(tier=Tier.PROFESSIONAL)
    with pytest.raises(UnsupportedFormat):
        asyncio.run(removals.remove_one(place, user.id, b"I am text", options))
    assert used(database, user) == (0, 0)
    job_id = reserved(place, user.id, b"", options)[0]
    assert used(database, user) == (1, 1)
    with ThreadPoolExecutor(8) as pool:
        failed = list(pool.map(lambda _: lost_jobs.fail(database, job_id, "INTERNAL", "broken"), range(16)))
    assert failed.count(True) == 1
    assert used(database, user) == (0, 0)
    engine_of(place).close()


@on_both
def test_what_a_crash_left_open_goes_back_to_the_quota_once(database: Database, tmp_path: Path) -> None:
    user, clock = subscriber(database, "starter"), Clock()
    place = replace(place_of(database, tmp_path, FakeRunner(), lease=60), clock=clock)
    for _ in range(3):
        reserved(place, user.id, b"", Options())
    assert lost_jobs.fail_lost_jobs(database, clock) == 0
    clock.at += timedelta(days=1)
    reserved(place, user.id, b"", Options())
    with ThreadPoolExecutor(4) as pool:
        settled = pool.map(lambda _: lost_jobs.fail_lost_jobs(database, clock), range(4))
    assert sum(settled) == 3
    assert used(database, user) == (0, 0)
    assert used(database, user, clock.at.date()) == (1, 0)
    engine_of(place).close()


@on_both
def test_a_cancelled_plan_works_until_its_month_ends_and_credits_after(database: Database) -> None:
    user = subscriber(database, "starter", funds=3)
    ends_at = datetime(2026, 12, 24, 12, tzinfo=UTC)
    for reason in ("too dear", "again"):
        cancelled = database.run_in_transaction(
            subscriptions.cancel, user.id, reason, NOON + timedelta(hours=1)
        )
        assert cancelled is not None
        assert (cancelled.ends_at, cancelled.cancel_reason) == (ends_at, "too dear")
        assert cancelled.cancelled_at == NOON + timedelta(hours=1)
    moment = timedelta(microseconds=1)
    assert pay(database, user, Tier.BASIC, ends_at - moment) is PaidBy.QUOTA
    assert pay(database, user, Tier.BASIC, ends_at) is PaidBy.CREDITS
    assert pay(database, user, Tier.BASIC, ends_at) is None
    assert database.run_in_transaction(subscriptions.cancel, user.id, None, ends_at) is None
    subscribe(database, user, "pro", ends_at)
    assert pay(database, user, Tier.PROFESSIONAL, ends_at) is PaidBy.QUOTA, "any plan can follow"


@on_both
def test_the_same_plan_extends_and_takes_a_cancelling_back_and_another_waits(database: Database) -> None:
    user = subscriber(database, "starter")
    database.run_in_transaction(subscriptions.cancel, user.id, None, NOON)
    extended = subscribe(database, user, "starter", NOON + timedelta(days=3)).month
    assert extended is not None
    assert (extended.starts_at, extended.ends_at) == (
        NOON.replace(month=12),
        NOON.replace(year=2027, month=1),
    )
    present = database.run_in_transaction(subscriptions.present, user.id, NOON)
    assert present is not None
    assert (present.id, present.cancelled_at) == (extended.id, None)
    with pytest.raises(AnotherPlan, match="starter is paid until 2027-01-24 12:00 UTC"):
        subscribe(database, user, "pro")


@on_both
def test_two_plans_paid_at_once_are_one_plan(database: Database) -> None:
    user = new_user(database)

    def buy(number: int) -> bool:
        try:
            subscribe(database, user, "pro" if number % 2 else "starter")
        except AnotherPlan:
            return False
        return True

    with ThreadPoolExecutor(12) as pool:
        bought = list(pool.map(buy, range(12)))
    assert bought.count(True) == 6
    with database.begin() as session:
        months = session.query(Subscription).order_by(Subscription.starts_at).all()
    assert len({month.plan for month in months}) == 1
    assert [month.starts_at for month in months[1:]] == [month.ends_at for month in months[:-1]]


@pytest.mark.parametrize(
    ("start", "ends"),
    [
        ("2027-01-31", ["2027-02-28", "2027-03-31", "2027-04-30", "2027-05-31"]),
        ("2028-01-30", ["2028-02-29", "2028-03-30"]),
        ("2026-11-24", ["2026-12-24", "2027-01-24"]),
        ("2026-12-31", ["2027-01-31", "2027-02-28", "2027-03-31"]),
    ],
)
def test_a_month_is_a_calendar_month_and_short_ones_do_not_shorten_the_next(
    start: str, ends: list[str]
) -> None:
    at = first = datetime.fromisoformat(f"{start}T17:30Z")
    for end in ends:
        at = month_later(at, first.day)
        assert at == datetime.fromisoformat(f"{end}T17:30Z")


@on_both
def test_the_day_of_a_month_is_kept_from_its_first(database: Database) -> None:
    user = new_user(database)
    east = datetime.fromisoformat("2027-02-01T03:00+07:00")  # This is still 31 January in UTC.
    ends = [subscribe(database, user, "pro", east + timedelta(days=5 * late)).month for late in range(3)]
    assert [f"{month.ends_at:%m-%d}" for month in ends if month] == ["02-28", "03-31", "04-30"]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["begin", "begin", "complete", "fail", "crash", "sweep", "cancel", "renew", "next day"]
        ),
        st.sampled_from([Tier.BASIC, Tier.PROFESSIONAL]),
        st.integers(0, 20),  # index of the job
    ),
    max_size=30,
)


class Crashed(Exception):
    """A simulated crash of the process: its transaction is rolled back."""


@on_both
@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_what_was_used_is_what_was_kept_whatever_happens(
    database: Database, tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, Tier, int]]
) -> None:
    """Random removals with failures, crashes and sweeps, over days, with a plan that is cancelled and paid again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PLANS, "tiny", Plan(1, 3, (Tier.BASIC, Tier.PROFESSIONAL), professional_per_day=1))
        user, clock = subscriber(database, "tiny", funds=60), Clock()
        place = RemovalContext(
            executor=SimpleNamespace(
                here=True, enqueue=lambda *_: {}, withdraw=lambda _: None
            ),  # No work is done here.
            storage=None,  # type: ignore[arg-type]
            database=database,
            lease=timedelta(hours=30),
            clock=clock,
        )
        jobs: list[uuid.UUID] = []
        for step, tier, number in steps:
            job_id = jobs[number % len(jobs)] if jobs else None
            if step == "begin":
                before = used(database, user, clock.at.date())
                try:
                    jobs.append(reserved(place, user.id, b"", Options(tier=tier))[0])
                except InsufficientCredits:
                    full = before[0] == 3 or (tier is Tier.PROFESSIONAL and before[1] == 1)
                    assert (
                        full or database.run_in_transaction(subscriptions.present, user.id, clock.at) is None
                    )
            elif step == "complete" and job_id:
                end(database, job_id)
            elif step == "fail" and job_id:
                lost_jobs.fail(database, job_id, "INTERNAL", "broken")
            elif step == "crash" and job_id:
                with pytest.raises(Crashed):
                    crash(database, job_id)
            elif step == "sweep":
                lost_jobs.fail_lost_jobs(database, clock)
            elif step == "cancel":
                database.run_in_transaction(subscriptions.cancel, user.id, None, clock.at)
            elif step == "renew":
                subscribe(database, user, "tiny", clock.at)
            elif step == "next day":
                clock.at += timedelta(days=1 + 12 * (number % 2))
        require_agreement(database, user)
        clock.at += timedelta(days=9)
        lost_jobs.fail_lost_jobs(database, clock)
        require_agreement(database, user)
        with database.begin() as session:
            mine = session.query(Job).filter(Job.user_id == user.id)
            assert mine.filter(Job.status == Status.PROCESSING).count() == 0


def crash(database: Database, job_id: uuid.UUID) -> None:
    with database.begin() as session:
        completion.fail(session, job_id, "INTERNAL", "never told")
        raise Crashed


def end(database: Database, job_id: uuid.UUID) -> None:
    with database.begin() as session:
        ended = session.get_one(Job, job_id).status is not Status.PROCESSING
        assert (completion.complete(session, job_id, DONE, 5) is None) == ended


def require_agreement(database: Database, user: User) -> None:
    """Check every day's counts against the jobs and the limits, and the balance against the ledger."""
    with database.begin() as session:
        kept = session.query(Job).filter(
            Job.user_id == user.id, Job.paid_by == PaidBy.QUOTA, Job.status != Status.FAILED
        )
        expected: dict[date, tuple[int, int]] = {}
        for job in kept:
            assert job.credits == 0
            day = job.created_at.date()
            count, professional = expected.get(day, (0, 0))
            expected[day] = count + 1, professional + (job.tier is Tier.PROFESSIONAL)
        usages = session.query(SubscriptionUsage).filter(SubscriptionUsage.user_id == user.id)
        counted = {usage.day: (usage.used, usage.professional) for usage in usages}
        assert {day: counts for day, counts in counted.items() if counts != (0, 0)} == expected
        assert all(count <= 3 and professional <= 1 for count, professional in counted.values())
        assert ledger.discrepancies(session) == {}
        spent = sum(
            job.credits
            for job in session.query(Job).filter(
                Job.user_id == user.id, Job.paid_by == PaidBy.CREDITS, Job.status != Status.FAILED
            )
        )
        assert ledger.balance(session, user.id) == 60 - spent
