"""Idempotency keys: a caller's key stands for one removal or one batch, and a repetition of the request gives the same."""

import uuid
from collections.abc import Callable
from dataclasses import fields
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import Select, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cutout.app.core.errors import ConflictError
from cutout.app.db.session import Database
from cutout.app.db.tables import IdempotencyKey, now
from cutout.inference.imaging.hints import Hints
from cutout.inference.options import Options

Written = TypeVar("Written")

# Options that were added since keys exist. At their defaults they are no part of what a key stands for: a request that is
# repeated after an update is the same one.
ADDED = frozenset(
    {"keep_shadow", "keep_mask", "drop_mask", "fill_holes", "min_coverage", "within", "all_frames"}
)


class KeyUsed(ConflictError):
    """A caller's key already stands for another request."""

    def __init__(self) -> None:
        super().__init__("This Idempotency-Key was used for another photo or other options. Use a new one.")


class KeyInWork(ConflictError):
    """The first request with a caller's key is not finished; it may be repeated in `retry_after` whole seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(
            "The first request with this Idempotency-Key is still being processed. Nothing is charged twice; send the"
            " same request again in a moment.",
            retry_after=retry_after,
        )


def described(options: Options | Hints) -> str:
    """Return the text of options that fingerprints contain, which stays the same in later versions."""
    shown = []
    for one in fields(options):
        value = getattr(options, one.name)
        if one.name not in ADDED or value != one.default:
            shown.append(f"{one.name}={described(value) if isinstance(value, Hints) else repr(value)}")
    return f"{type(options).__name__}({', '.join(shown)})"


def find_key(session: Session, user_id: uuid.UUID, key: str) -> IdempotencyKey | None:
    """Return a user's key; None where it was not used yet."""
    return session.scalars(_rows(user_id, key)).one_or_none()


def lock_key(session: Session, user_id: uuid.UUID, key: str) -> IdempotencyKey | None:
    """Return a user's key, and lock its row until the transaction ends."""
    return session.scalars(_rows(user_id, key).with_for_update()).one_or_none()


def write_once(
    database: Database,
    user_id: uuid.UUID,
    key: str | None,
    write: Callable[[Session, IdempotencyKey | None], Written],
) -> Written:
    """Call `write` in a transaction with the row of the key, locked; None where there is no key, or it is new.

    Where another request commits the same new key first, `write` is called again in a new transaction, with its row.

    Raises:
        Exception: what `write` raises; the transaction is rolled back.

    """
    while True:
        try:
            with database.begin() as session:
                return write(session, None if key is None else lock_key(session, user_id, key))
        except IntegrityError:
            if key is None or database.run_in_transaction(lock_key, user_id, key) is None:
                raise


def add_key(
    session: Session,
    user_id: uuid.UUID,
    key: str | None,
    fingerprint: str,
    *,
    job_id: uuid.UUID | None = None,
    batch_id: uuid.UUID | None = None,
    at: datetime,
) -> None:
    """Let a key stand for a job or a batch from now on. Without a key, do nothing."""
    if key is not None:
        session.add(
            IdempotencyKey(
                user_id=user_id,
                key=key,
                fingerprint=fingerprint,
                job_id=job_id,
                batch_id=batch_id,
                created_at=at,
            )
        )


def forget_keys(database: Database, age: timedelta) -> int:
    """Delete the keys that are older than `age`; return how many."""
    with database.begin() as session:
        old = delete(IdempotencyKey).where(IdempotencyKey.created_at < now() - age)
        return len(session.scalars(old.returning(IdempotencyKey.id)).all())


def _rows(user_id: uuid.UUID, key: str) -> Select[IdempotencyKey]:
    return select(IdempotencyKey).where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == key)
