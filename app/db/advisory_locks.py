"""What one host at a time may do."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

# Any number that nobody else in the same database locks.
SWEEPER = 0x6375746F7574


def try_take(session: Session, lock: int) -> bool:
    """Take a lock until the transaction ends; False if another one has it. On SQLite there is one writer at any time."""
    if session.get_bind().dialect.name == "sqlite":
        return True
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(lock))))
