"""Statistics on the queue for monitoring: waiting work, and workers that are alive."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cutout.app.db.session import Database
from cutout.app.db.tables import Batch, Job, Status, now
from cutout.app.jobs.leases import Line
from cutout.app.jobs.queue import Queue, QueueUnavailable, WorkerInfo

log = structlog.get_logger()

# Timeout of a call to the queue; short, so that a queue that hangs does not delay monitoring.
PATIENCE_SECONDS = 1.0
# How long the queue is not tried again after a failure.
PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Waiting:
    """Number of batch photos that wait, and number of batches that have not ended; number of single photos that wait
    for a worker; and by line, for how many seconds the photo that has waited longest does so, 0 if none waits.
    """

    photos: int
    batches: int
    single_photos: int = 0
    longest_seconds: Mapping[Line, float] = field(default_factory=dict)


class QueueStats:
    """Reads the waiting work from the database and the live workers from the queue. Thread-safe."""

    def __init__(self, database: Database, queue_url: str | None) -> None:
        self._database = database
        self._queue = Queue(queue_url, PATIENCE_SECONDS) if queue_url is not None else None
        self._ask_again = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether there is a queue at all."""
        return self._queue is not None

    def waiting(self) -> Waiting:
        """Count the waiting photos and the batches that have not ended.

        Raises:
            OperationalError: the database does not respond.

        """
        return self._database.run_read_only(_count)

    def workers(self) -> list[WorkerInfo] | None:
        """Return the workers that are alive; None if there is no queue or it does not respond."""
        if self._queue is None or time.monotonic() < self._ask_again:
            return None
        try:
            return self._queue.workers()
        except QueueUnavailable:
            self._ask_again = time.monotonic() + PAUSE_SECONDS
            return None

    def close(self) -> None:
        """Close the connections to the queue."""
        if self._queue is not None:
            self._queue.close()


def _count(session: Session) -> Waiting:
    of_batch = Job.batch_id.is_not(None)
    waiting = (
        select(of_batch, func.count(), func.min(Job.created_at))
        .where(Job.status == Status.PENDING)
        .group_by(of_batch)
    )
    photos, longest, at = dict.fromkeys(Line, 0), dict.fromkeys(Line, 0.0), now()
    for is_of_batch, count, oldest in session.execute(waiting):
        line = Line.BATCH if is_of_batch else Line.INTERACTIVE
        photos[line], longest[line] = count, max(0.0, (at - oldest).total_seconds())
    batches = select(func.count()).select_from(Batch).where(Batch.finished_at.is_(None))
    return Waiting(photos[Line.BATCH], session.scalar(batches) or 0, photos[Line.INTERACTIVE], longest)
