"""The clock that hosts share: leases are compared with the database's clock, since the hosts' own may differ."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cutout.app.db.tables import now


def shared_now(session: Session, clock: Callable[[], datetime] = now) -> datetime:
    """Return the time in UTC by the database server's clock, or by `clock` where another than `now` is given.

    On SQLite all processes are on one host, whose clock it is.
    """
    if clock is not now or session.get_bind().dialect.name == "sqlite":
        return clock()
    at: datetime | None = session.scalar(select(func.clock_timestamp()))
    assert at is not None
    return at
