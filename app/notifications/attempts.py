"""Repeated attempts to deliver rows of an outbox: claims with a lease, back-off, and the record of each outcome."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import update
from sqlalchemy.orm import Session

from cutout.app.db.tables import Delivery, StoreDelivery
from cutout.app.notifications.errors import NotDelivered

AnyDelivery = Delivery | StoreDelivery
Row = TypeVar("Row", Delivery, StoreDelivery)

# Back-off after each failed attempt. After the last wait one more attempt follows, then the delivery is given up.
WAITS = (
    timedelta(seconds=10),
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=30),
    timedelta(hours=2),
    timedelta(hours=6),
    timedelta(hours=12),
    timedelta(hours=24),
)
LONGEST_RETRY_AFTER = WAITS[-1]
# Each wait is extended by a random share of up to this much, so that deliveries that failed together are spread.
JITTER = 0.2
# Longer than the slowest attempt of any delivery.
LEASE = timedelta(minutes=5)
LONGEST_ERROR = 500


async def deliver_all(
    claim: Callable[[int], Awaitable[list[Row]]],
    deliver: Callable[[Row], Awaitable[None]],
    most_at_once: int,
    every: timedelta,
) -> int:
    """Attempt all deliveries that `claim` returns now or while others are running; return the number of attempts.

    `claim` is called with the number of deliveries for which there is room: as soon as one has ended, and at least
    `every` so often. On cancellation, running deliveries are cancelled too.
    """
    tried = 0
    running: set[asyncio.Task[None]] = set()

    async def attempt(row: Row) -> None:
        await deliver(row)

    try:
        while True:
            claimed = await claim(most_at_once - len(running))
            tried += len(claimed)
            running |= {asyncio.create_task(attempt(row)) for row in claimed}
            if not running:
                return tried
            _, running = await asyncio.wait(
                running, timeout=every.total_seconds(), return_when=asyncio.FIRST_COMPLETED
            )
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def mend_due_times(session: Session, at: datetime) -> int:
    """Attempt at once what is due so late that only a clock that was set back explains it; return how many."""
    latest = at + LONGEST_RETRY_AFTER * (1 + JITTER)
    mended = 0
    for table in (Delivery, StoreDelivery):
        late = update(table).where(table.due_at > latest).values(due_at=at)
        mended += len(session.scalars(late.returning(table.id)).all())
    return mended


def begin_attempt(row: AnyDelivery, at: datetime) -> None:
    """Claim a row, which the caller's transaction has locked: no other host claims it before the lease ends."""
    row.attempts += 1
    row.due_at = at + LEASE


def next_attempt(
    row: AnyDelivery, failure: NotDelivered, at: datetime, chance: Callable[[], float]
) -> datetime | None:
    """Return when to try again after a failure, None if never. `chance` returns random numbers of 0…1."""
    if failure.final or row.attempts > len(WAITS):
        return None
    wait = WAITS[row.attempts - 1] * (1 + JITTER * chance())
    return at + max(wait, min(failure.retry_after, LONGEST_RETRY_AFTER))


def record_delivered(
    session: Session, row: AnyDelivery, status: int | None, at: datetime, target: str | None = None
) -> None:
    """Record that a delivery has arrived; `target` replaces that of the row."""
    # Recorded even if the lease expired and another host claimed the row since: it need not be sent again.
    table = type(row)
    mine = update(table).where(table.id == row.id, table.delivered_at.is_(None))
    session.execute(
        mine.values(status=status, error=None, delivered_at=at, due_at=None, target=target or row.target)
    )


def record_failed(
    session: Session,
    row: AnyDelivery,
    failure: NotDelivered,
    due_at: datetime | None,
    target: str | None = None,
) -> None:
    """Record a failed attempt, and when the next one is due; `target` replaces that of the row."""
    table = type(row)
    mine = update(table).where(
        table.id == row.id,
        table.attempts == row.attempts,  # else another host has claimed it since
        table.delivered_at.is_(None),
    )
    reason = str(failure)[:LONGEST_ERROR]
    session.execute(
        mine.values(status=failure.status, error=reason, due_at=due_at, target=target or row.target)
    )
