"""Advisory locks for work that only one host may do at a time."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

# An arbitrary number that no other user of the same database locks.
SWEEPER = 0x6375746F7574


def try_take(session: Session, lock: int) -> bool:
    """Take an advisory lock until the transaction ends; return False if another transaction holds it.

    Always True on SQLite, where only one write transaction can be open at a time.
    """
    if session.get_bind().dialect.name == "sqlite":
        return True
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(lock))))
