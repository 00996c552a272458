"""Credits: every movement a row of the ledger, every balance guarded, every repetition harmless.

All of these work in a transaction of the caller's, who commits it. A movement and the balance change together or not at
all. `key` names what a movement is for; the same key never moves credits twice, whoever asks and however often, at once
or one after the other.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

from sqlalchemy import Integer, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from cutout.app.core.errors import ConflictError, ServiceError
from cutout.app.db.tables import LedgerEntry, Movement, User, plain

# More does not fit its column; what is held and may come back has room beside it.
LARGEST_BALANCE = 2_000_000_000

USERS, LEDGER = plain(User), plain(LedgerEntry)
# Made once, as every removal runs them: to make a statement takes longer than to run it.
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
    """What was taken of whom."""

    user_id: uuid.UUID
    credits: int


class TooManyCredits(ConflictError):
    """A user would have more credits than can be kept."""

    def __init__(self) -> None:
        super().__init__(f"Nobody can have more than {LARGEST_BALANCE:,} credits. Give fewer.")


class InsufficientCredits(ServiceError):
    """A user has fewer credits than something costs."""

    code, status = "INSUFFICIENT_CREDITS", 402
    example = "This costs 8 credits and 5 are left. Buy credits, or take a cheaper tier."
    example_extra: ClassVar[Mapping[str, int]] = {"required": 8, "available": 5}

    def __init__(self, required: int, available: int, *, at_least: bool = False) -> None:
        costs = f"at least {required}" if at_least else str(required)
        super().__init__(
            f"This costs {costs} credits and {available} are left. Buy credits, or take a cheaper tier.",
            required=required,
            available=available,
        )
        self.required = required
        self.available = available


def grant(session: Session, user_id: uuid.UUID, credits: int, key: str, note: str = "") -> bool:
    """Give credits to a user; False if it was done before, by this key.

    Raises:
        ValueError: the number is not positive.
        TooManyCredits: the user would have too many; nothing is given.

    """
    if credits <= 0:
        raise ValueError(f"{credits} credits cannot be granted; give a positive number")
    if not _write(session, user_id, Movement.GRANT, credits, key, note):
        return False
    if session.scalar(GIVE_IF_ROOM, {"who": user_id, "credits": credits}) is None:
        _undo(session, key)
        raise TooManyCredits
    return True


def hold(session: Session, user_id: uuid.UUID, credits: int, key: str, note: str = "") -> bool:
    """Take credits for work that is about to begin, to be charged or released later; False if it was done before.

    Raises:
        InsufficientCredits: the user has not so many; nothing is taken.

    """
    if not _write(session, user_id, Movement.HOLD, -credits, _hold(key), note):
        return False
    if session.scalar(TAKE, {"who": user_id, "credits": credits}) is None:
        _undo(session, _hold(key))
        raise InsufficientCredits(credits, balance(session, user_id))
    return True


def charge(session: Session, key: str) -> bool:
    """Make a hold final: the work was done. False if it is settled already."""
    return _settle(session, key, Movement.CHARGE)


def release(session: Session, key: str) -> bool:
    """Give a hold back: the work was not done. False if it is settled already."""
    return _settle(session, key, Movement.RELEASE)


def charge_part(session: Session, key: str, given_back: int, note: str = "") -> bool:
    """Make a hold final but for `given_back` credits: that part of the work was not done. False if it is settled already.

    Raises:
        ValueError: that is not a part of what is held.

    """
    held = _held(session, key)
    if not 0 <= given_back <= held.credits:
        raise ValueError(f"{given_back} is no part of the {held.credits} credits held by the key {key!r}")
    if given_back == held.credits:
        return release(session, key)
    if not charge(session, key):
        return False
    if given_back:
        _write(session, held.user_id, Movement.RELEASE, given_back, f"return:{key}", note)
        session.execute(GIVE, {"who": held.user_id, "credits": given_back})
    return True


def balance(session: Session, user_id: uuid.UUID) -> int:
    """Return what a user has."""
    found = session.scalar(select(User.balance).where(User.id == user_id))
    if found is None:
        raise LookupError(f"there is no user {user_id}")
    return found


def ledger(
    session: Session, user_id: uuid.UUID, limit: int = 50, before: int | None = None
) -> Sequence[LedgerEntry]:
    """Return a user's movements, the newest first; `before` is the id of the last one of the page before."""
    rows = (
        select(LedgerEntry).where(LedgerEntry.user_id == user_id).order_by(LedgerEntry.id.desc()).limit(limit)
    )
    if before is not None:
        rows = rows.where(LedgerEntry.id < before)
    return session.scalars(rows).all()


def statement(
    session: Session, user_id: uuid.UUID, limit: int, before: int | None
) -> tuple[int, Sequence[LedgerEntry]]:
    """Return a user's balance and a page of his ledger, of one moment."""
    return balance(session, user_id), ledger(session, user_id, limit, before)


def grant_to(
    session: Session, user_id: uuid.UUID, credits: int, key: str, note: str
) -> tuple[bool, int] | None:
    """Give credits to a user: whether that was now, and what he has then; None if there is no such user."""
    if session.get(User, user_id) is None:
        return None
    granted = grant(session, user_id, credits, key, note)
    return granted, balance(session, user_id)


def discrepancies(session: Session) -> dict[uuid.UUID, tuple[int, int]]:
    """Compare each balance with its ledger: users whose two differ, with both. Empty, always."""
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
    # One key for both: a hold is charged or released, never both.
    if not _write(session, held.user_id, movement, given_back, f"settle:{key}"):
        return False
    if given_back:
        session.execute(GIVE, {"who": held.user_id, "credits": given_back})
    return True


def _held(session: Session, key: str) -> Hold:
    held = session.execute(HELD, {"key": _hold(key)}).one_or_none()
    if held is None:
        raise LookupError(f"nothing is held by the key {key!r}")
    return Hold(held.user_id, -held.credits)


def _write(
    session: Session, user_id: uuid.UUID, movement: Movement, credits: int, key: str, note: str = ""
) -> bool:
    """Add a row, or leave all as it is where its key is there. A transaction that is adding it now is waited for."""
    row = {"user_id": user_id, "movement": movement, "credits": credits, "key": key, "note": note}
    return session.scalar(WRITE[session.get_bind().dialect.name], row) is not None


def _undo(session: Session, key: str) -> None:
    """Take back a row that this transaction has written: what it stood for cannot be done."""
    session.execute(delete(LedgerEntry).where(LedgerEntry.key == key))


def _hold(key: str) -> str:
    return f"hold:{key}"
