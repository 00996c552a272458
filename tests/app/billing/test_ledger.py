"""The ledger: its sum is the balance and never negative, despite concurrency, repetition and crashes."""

import random
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from cutout.app.billing import ledger
from cutout.app.billing.ledger import InsufficientCredits, TooManyCredits
from cutout.app.db.session import Database
from cutout.app.db.tables import LedgerEntry, Movement
from tests.app.databases import new_user, on_both


def funded(database: Database, amount: int) -> uuid.UUID:
    """Add a user with credits."""
    user = new_user(database, f"user-{uuid.uuid4()}")
    with database.begin() as session:
        assert ledger.grant(session, user.id, amount, f"grant:{user.id}", "for a test")
    return user.id


def balance(database: Database, user_id: uuid.UUID) -> int:
    """Return a user's balance, and check it against their ledger."""
    with database.begin() as session:
        assert ledger.discrepancies(session) == {}
        total = select(func.sum(LedgerEntry.credits)).where(LedgerEntry.user_id == user_id)
        assert session.scalar(total) == ledger.balance(session, user_id)
        return ledger.balance(session, user_id)


@on_both
def test_a_hold_is_charged_or_released_and_never_both(database: Database) -> None:
    user_id = funded(database, 100)
    with database.begin() as session:
        ledger.hold(session, user_id, 8, "job:1")
        ledger.hold(session, user_id, 15, "job:2")
    assert balance(database, user_id) == 77
    with database.begin() as session:
        assert ledger.charge(session, "job:1")
        assert ledger.release(session, "job:2")
    assert balance(database, user_id) == 92
    with database.begin() as session:
        for settle in (ledger.charge, ledger.release):
            for key in ("job:1", "job:2"):
                assert not settle(session, key)
    assert balance(database, user_id) == 92


@on_both
def test_what_is_repeated_moves_nothing_twice(database: Database) -> None:
    user_id = funded(database, 10)
    for first in (True, False, False):
        with database.begin() as session:
            assert ledger.grant(session, user_id, 5, "payment:1") is first
            assert ledger.hold(session, user_id, 3, "job:1") is first
    assert balance(database, user_id) == 12


@on_both
def test_too_few_credits_take_nothing_and_say_what_is_there(database: Database) -> None:
    user_id = funded(database, 7)
    with database.begin() as session:
        with pytest.raises(InsufficientCredits) as caught:
            ledger.hold(session, user_id, 8, "job:1")
        assert ledger.hold(session, user_id, 7, "job:2"), "what was refused leaves the transaction usable"
    assert (caught.value.required, caught.value.available) == (8, 7)
    assert balance(database, user_id) == 0
    with database.begin() as session:
        assert [entry.key for entry in ledger.ledger(session, user_id)][:1] == ["hold:job:2"]


@on_both
def test_only_what_is_held_can_be_settled(database: Database) -> None:
    with (
        database.begin() as session,
        pytest.raises(LookupError, match="no credits are held under the key 'job:9'"),
    ):
        ledger.charge(session, "job:9")


@on_both
def test_a_user_who_is_not_there_is_no_repetition(database: Database) -> None:
    with pytest.raises(IntegrityError), database.begin() as session:
        ledger.grant(session, uuid.uuid4(), 5, "grant:nobody")


@on_both
@pytest.mark.parametrize("amount", [0, -5])
def test_only_a_positive_number_is_granted(database: Database, amount: int) -> None:
    user_id = funded(database, 1)
    with database.begin() as session, pytest.raises(ValueError, match="give a positive number"):
        ledger.grant(session, user_id, amount, "grant:bad")
    assert balance(database, user_id) == 1


@on_both
def test_the_ledger_is_paged_from_the_newest(database: Database) -> None:
    user_id = funded(database, 100)
    other = funded(database, 5)
    with database.begin() as session:
        for number in range(5):
            ledger.hold(session, user_id, 1, f"job:{number}")
    with database.begin() as session:
        first = ledger.ledger(session, user_id, limit=4)
        second = ledger.ledger(session, user_id, limit=4, before=first[-1].id)
        assert [entry.key for entry in first] == [f"hold:job:{number}" for number in (4, 3, 2, 1)]
        assert [entry.key for entry in second] == ["hold:job:0", f"grant:{user_id}"]
        assert [entry.movement for entry in second] == [Movement.HOLD, Movement.GRANT]
        assert len(ledger.ledger(session, other)) == 1


@on_both
def test_a_spoilt_balance_would_be_seen(database: Database) -> None:
    user = new_user(database)
    with database.begin() as session:
        session.merge(user).balance = 3
    with database.begin() as session:
        assert ledger.discrepancies(session) == {user.id: (3, 0)}


@on_both
def test_two_hundred_at_once_with_credits_for_fifty(database: Database) -> None:
    user_id = funded(database, 150)

    def buy(number: int) -> bool:
        try:
            with database.begin() as session:
                ledger.hold(session, user_id, 3, f"job:{number}")
        except InsufficientCredits:
            return False
        with database.begin() as session:
            assert ledger.charge(session, f"job:{number}")
        return True

    with ThreadPoolExecutor(40) as pool:
        bought = list(pool.map(buy, range(200)))
    assert bought.count(True) == 50
    assert balance(database, user_id) == 0


@on_both
def test_one_job_settled_by_many_at_once_is_settled_once(database: Database) -> None:
    user_id = funded(database, 30)
    with database.begin() as session:
        ledger.hold(session, user_id, 30, "job:1")

    def settle(number: int) -> bool:
        with database.begin() as session:
            return ledger.charge(session, "job:1") if number % 2 else ledger.release(session, "job:1")

    with ThreadPoolExecutor(16) as pool:
        settled = list(pool.map(settle, range(32)))
    assert settled.count(True) == 1
    assert balance(database, user_id) == (0 if settled.index(True) % 2 else 30)


@on_both
def test_what_cannot_be_done_leaves_nothing_in_a_transaction_that_goes_on(database: Database) -> None:
    user_id = funded(database, 10)
    with database.begin() as session:
        with pytest.raises(InsufficientCredits):
            ledger.hold(session, user_id, 11, "job:1")
        with pytest.raises(TooManyCredits):
            ledger.grant(session, user_id, ledger.LARGEST_BALANCE, "payment:1")
        assert ledger.grant(session, user_id, 1, "payment:1")
        assert ledger.hold(session, user_id, 11, "job:1")
    assert balance(database, user_id) == 0


@on_both
def test_many_grants_at_once_never_pass_what_fits(database: Database) -> None:
    part = ledger.LARGEST_BALANCE // 4
    user_id = funded(database, part)

    def give(number: int) -> bool:
        try:
            with database.begin() as session:
                return ledger.grant(session, user_id, part, f"payment:{number}")
        except TooManyCredits:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(give, range(8))) == 3
    assert balance(database, user_id) == ledger.LARGEST_BALANCE


class Crashed(Exception):
    """A simulated crash of the process: its transaction is rolled back."""


steps = st.lists(
    st.tuples(
        st.sampled_from(["grant", "hold", "charge", "release"]),
        st.integers(0, 5),  # index of the hold
        st.integers(1, 20),  # credits
        st.booleans(),  # whether it crashes before the commit
    ),
    max_size=30,
)


@on_both
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=steps, seed=st.integers(0, 100))
def test_ledger_and_balance_agree_whatever_happens(
    database: Database, steps: list[tuple[str, int, int, bool]], seed: int
) -> None:
    """Random movements, randomly repeated, with crashes between any two steps; then all open holds are settled."""
    user_id = funded(database, 30)
    run = uuid.uuid4().hex
    expected = 30
    granted: set[int] = set()
    held: dict[int, int] = {}
    settled: set[int] = set()
    for step, number, amount, crashes in steps:
        refused = None
        key = f"{run}:{number}"
        try:
            with database.begin() as session:
                if step == "grant":
                    moved = ledger.grant(session, user_id, amount, key)
                    assert moved is (number not in granted)
                elif step == "hold":
                    moved = ledger.hold(session, user_id, amount, key)
                    assert moved is (number not in held)
                elif number not in held:
                    continue
                else:
                    settle = ledger.charge if step == "charge" else ledger.release
                    moved = settle(session, key)
                    assert moved is (number not in settled)
                if crashes:
                    raise Crashed
        except Crashed:
            continue
        except InsufficientCredits as error:
            refused = (step, error.required, error.available, number in held)
        if refused:
            assert refused == ("hold", amount, expected, False)
            assert expected < amount
            continue
        if moved and step == "grant":
            granted.add(number)
            expected += amount
        elif moved and step == "hold":
            held[number] = amount
            expected -= amount
        elif moved:
            settled.add(number)
            expected += held[number] if step == "release" else 0
        assert balance(database, user_id) == expected >= 0
    for number in random.Random(seed).sample(sorted(held), len(held)):
        with database.begin() as session:
            if ledger.release(session, f"{run}:{number}"):
                expected += held[number]
    assert balance(database, user_id) == expected
