"""The credit ledger: every movement of credits is a row, and no balance becomes negative or too large.

All functions run in the caller's transaction, which the caller commits. A movement and the balance change together or
not at all. `key` is the idempotency key of a movement: the same key never moves credits twice, even in concurrent
transactions.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from sqlalchemy import Integer, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cutout.app.core.errors import ConflictError, ServiceError
from cutout.app.db.committed import count
from cutout.app.db.tables import LedgerEntry, Movement, User, plain

# A larger balance does not fit its column; this leaves room for held credits that may be released.
LARGEST_BALANCE = 2_000_000_000

# The kind of the counts of credits that were moved: see `committed`. The word after it is one of `MOVED`.
CREDITS_MOVED = "credits"
MOVED = ("granted", "held", "charged", "returned")

USERS, LEDGER = plain(User), plain(LedgerEntry)
# Statements are built only once, because every removal runs them and building one takes longer than running it.
HELD = select(LEDGER).where(LEDGER.c.key == bindparam("key"))
WRITE = {
    name: dialect.insert(LEDGER).on_conflict_do_nothing(index_elements=[LEDGER.c.key]).returning(LEDGER.c.id)
    for name, dialect in (("postgresql", postgresql), ("sqlite", sqlite))
}
_OF_WHOM, _HOW_MANY = USERS.c.id == bindparam("who"), bindparam("credits", type_=Integer)
GIVE = update(USERS).where(_OF_WHOM).values(balance=USERS.c.balance + _HOW_MANY)
GIVE_IF_ROOM = GIVE.where(USERS.c.balance <= LARGEST_BALANCE - _HOW_MANY).returning(USERS.c.balance)
TAKE = (
    update(USERS)
    .where(_OF_WHOM, USERS.c.balance >= _HOW_MANY)
    .values(balance=USERS.c.balance - _HOW_MANY)
    .returning(USERS.c.balance)
)


class Hold(NamedTuple):
    """The credits held, and the user from whom they were taken."""

    user_id: uuid.UUID
    credits: int


class TooManyCredits(ConflictError):
    """A user would have more credits than a balance can store."""

    def __init__(self) -> None:
        super().__init__(f"A user can have at most {LARGEST_BALANCE:,} credits. Grant fewer.")


class InsufficientCredits(ServiceError):
    """A user has fewer credits than something costs."""

    code, status = "INSUFFICIENT_CREDITS", 402
    example = "This costs 8 credits, but you have 5. Buy credits or choose a cheaper tier."
    example_extra: ClassVar[Mapping[str, int]] = {"required": 8, "available": 5}

    def __init__(self, required: int, available: int, *, at_least: bool = False) -> None:
        costs = f"at least {required}" if at_least else str(required)
        super().__init__(
            f"This costs {costs} credits, but you have {available}. Buy credits or choose a cheaper tier.",
            required=required,
            available=available,
        )
        self.required = required
        self.available = available


def grant(session: Session, user_id: uuid.UUID, credits: int, key: str, note: str = "") -> bool:
    """Grant credits to a user. Return False if a grant with this key exists already.

    Raises:
        ValueError: the number of credits is not positive.
        TooManyCredits: the user would have too many; nothing is granted.

    """
    if credits <= 0:
        raise ValueError(f"{credits} credits cannot be granted; give a positive number")
    if not _write(session, user_id, Movement.GRANT, credits, key, note):
        return False
    if session.scalar(GIVE_IF_ROOM, {"who": user_id, "credits": credits}) is None:
        _undo(session, key)
        raise TooManyCredits
    count(session, (CREDITS_MOVED, "granted"), credits)
    return True


def hold(session: Session, user_id: uuid.UUID, credits: int, key: str, note: str = "") -> bool:
    """Hold credits for work that is about to begin, to be charged or released later.

    Return False if a hold with this key exists already.

    Raises:
        InsufficientCredits: the user has fewer credits; nothing is held.

    """
    if not _write(session, user_id, Movement.HOLD, -credits, _hold(key), note):
        return False
    if session.scalar(TAKE, {"who": user_id, "credits": credits}) is None:
        _undo(session, _hold(key))
        raise InsufficientCredits(credits, balance(session, user_id))
    count(session, (CREDITS_MOVED, "held"), credits)
    return True


def charge(session: Session, key: str) -> bool:
    """Charge a hold, because the work was done. Return False if the hold is settled already."""
    return _settle(session, key, Movement.CHARGE)


def release(session: Session, key: str) -> bool:
    """Release a hold, because the work was not done. Return False if the hold is settled already."""
    return _settle(session, key, Movement.RELEASE)


def charge_part(session: Session, key: str, given_back: int, note: str = "") -> bool:
    """Charge a hold except for `given_back` credits, which are returned because that part of the work was not done.

    Return False if the hold is settled already.

    Raises:
        ValueError: `given_back` is negative or larger than the hold.

    """
    held = _held(session, key)
    if not 0 <= given_back <= held.credits:
        raise ValueError(f"{given_back} is not between 0 and the {held.credits} credits held under {key!r}")
    if given_back == held.credits:
        return release(session, key)
    if not charge(session, key):
        return False
    if given_back:
        _write(session, held.user_id, Movement.RELEASE, given_back, f"return:{key}", note)
        session.execute(GIVE, {"who": held.user_id, "credits": given_back})
        count(session, (CREDITS_MOVED, "charged"), -given_back)
        count(session, (CREDITS_MOVED, "returned"), given_back)
    return True


def balance(session: Session, user_id: uuid.UUID) -> int:
    """Return a user's balance, in credits."""
    found = session.scalar(select(User.balance).where(User.id == user_id))
    if found is None:
        raise LookupError(f"there is no user {user_id}")
    return found


def ledger(
    session: Session, user_id: uuid.UUID, limit: int = 50, before: int | None = None
) -> Sequence[LedgerEntry]:
    """Return a user's movements, newest first. `before` is the id of the last one on the previous page."""
    rows = (
        select(LedgerEntry).where(LedgerEntry.user_id == user_id).order_by(LedgerEntry.id.desc()).limit(limit)
    )
    if before is not None:
        rows = rows.where(LedgerEntry.id < before)
    return session.scalars(rows).all()


def statement(
    session: Session, user_id: uuid.UUID, limit: int, before: int | None
) -> tuple[int, Sequence[LedgerEntry]]:
    """Return a user's balance and a page of their ledger, read in one transaction."""
    return balance(session, user_id), ledger(session, user_id, limit, before)


def grant_to(
    session: Session, user_id: uuid.UUID, credits: int, key: str, note: str
) -> tuple[bool, int] | None:
    """Grant credits to a user. Return whether they were granted now, and the balance; None if there is no such user."""
    if session.get(User, user_id) is None:
        return None
    granted = grant(session, user_id, credits, key, note)
    return granted, balance(session, user_id)


def discrepancies(session: Session) -> dict[uuid.UUID, tuple[int, int]]:
    """Return the users whose balance differs from the sum of their ledger, with both numbers. It should be empty."""
    total = func.coalesce(func.sum(LedgerEntry.credits), 0)
    rows = session.execute(
        select(User.id, User.balance, total)
        .outerjoin(LedgerEntry, LedgerEntry.user_id == User.id)
        .group_by(User.id, User.balance)
        .having(User.balance != total)
    )
    return {user_id: (kept, summed) for user_id, kept, summed in rows}


def _settle(session: Session, key: str, movement: Movement) -> bool:
    held = _held(session, key)
    given_back = held.credits if movement is Movement.RELEASE else 0
    # Charge and release share one key, so a hold cannot be both charged and released.
    if not _write(session, held.user_id, movement, given_back, f"settle:{key}"):
        return False
    if given_back:
        session.execute(GIVE, {"who": held.user_id, "credits": given_back})
    count(session, (CREDITS_MOVED, "returned" if given_back else "charged"), held.credits)
    return True


def _held(session: Session, key: str) -> Hold:
    held = session.execute(HELD, {"key": _hold(key)}).one_or_none()
    if held is None:
        raise LookupError(f"no credits are held under the key {key!r}")
    return Hold(held.user_id, -held.credits)


def _write(
    session: Session, user_id: uuid.UUID, movement: Movement, credits: int, key: str, note: str = ""
) -> bool:
    """Insert a row; return False if its key exists already. This waits for a transaction that is inserting the key."""
    row = {"user_id": user_id, "movement": movement, "credits": credits, "key": key, "note": note}
    return session.scalar(WRITE[session.get_bind().dialect.name], row) is not None


def _undo(session: Session, key: str) -> None:
    """Delete a row that this transaction has written, because its movement is not possible."""
    session.execute(delete(LedgerEntry).where(LedgerEntry.key == key))


def _hold(key: str) -> str:
    return f"hold:{key}"
