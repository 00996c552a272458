"""What a load leaves in a service's database, files, queue and log."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from cutout.app.billing import ledger
from cutout.app.db.session import Database
from cutout.app.db.tables import (
    Base,
    Batch,
    Delivery,
    Job,
    LedgerEntry,
    Movement,
    PaidBy,
    Status,
    StoreDelivery,
)
from cutout.app.embedded.supervisor import socket_path
from tests.fakes import files_below

# The name of a file that is being written.
STAGED = re.compile(r"\.cutout-[0-9a-f]{32}")
FOLDERS = ("uploads", "results", "originals", "thumbnails")
OPEN = (Status.PENDING, Status.PROCESSING)
# Beside RQ's own keys and the announcement of the worker there is one key for each signal that waits.
MOST_KEYS = 20
# What the log may say of clients that hang up or send rubbish is no more than information.
LOUD = ("warning", "error", "critical")


@dataclass(frozen=True)
class Traces:
    """A service's data at one time."""

    database: Database
    folder: Path

    def rows(self) -> dict[str, int]:
        """Return the rows of each table, and of those with a status by it."""
        return self.database.run_read_only(_rows)

    def files(self) -> dict[str, int]:
        """Return the files of each kind: by their folder, and those that are being written."""
        counts = dict.fromkeys((*FOLDERS, "temporary"), 0)
        for file in files_below(self.folder):
            if STAGED.fullmatch(file.name):
                counts["temporary"] += 1
            elif (top := file.relative_to(self.folder).parts[0]) in counts:
                counts[top] += 1
        return counts

    def keys(self) -> list[str]:
        """Return the names of all keys of the queue."""
        with Redis(unix_socket_path=str(socket_path(self.folder / "valkey"))) as redis:
            return sorted(key.decode() for key in redis.keys("*"))

    def in_work(self) -> int:
        """Return how many jobs have not ended."""
        return self.database.run_read_only(
            lambda session: session.scalar(select(func.count()).where(Job.status.in_(OPEN))) or 0
        )

    def left_behind(self) -> list[str]:
        """Return what an idle service must not have; empty once all has been swept."""
        found = [f"{count} {kind} files" for kind, count in self.files().items() if count]
        keys = self.keys()
        if len(keys) > MOST_KEYS:
            found.append(f"{len(keys)} keys in the queue, such as {keys[:MOST_KEYS]}")
        return found + self.database.run_read_only(_unsettled)


def _rows(session: Session) -> dict[str, int]:
    found: dict[str, int] = {}
    for table in Base.metadata.sorted_tables:
        found[table.name] = session.scalar(select(func.count()).select_from(table)) or 0
    for kind in (Job, Batch):
        for status, count in session.execute(select(kind.status, func.count()).group_by(kind.status)):
            found[f"{kind.__tablename__}, {status}"] = count
    return found


def _unsettled(session: Session) -> list[str]:
    """Return what is open in the database, and what is wrong with its sums."""
    counts = {
        "jobs in work": select(func.count()).select_from(Job).where(Job.status.in_(OPEN)),
        "batches in work": select(func.count()).select_from(Batch).where(Batch.finished_at.is_(None)),
        "notifications due": select(func.count()).select_from(Delivery).where(Delivery.due_at.is_not(None)),
        "results due at stores": select(func.count())
        .select_from(StoreDelivery)
        .where(StoreDelivery.due_at.is_not(None)),
        "idempotency keys": select(func.count()).select_from(Base.metadata.tables["idempotency_keys"]),
    }
    found = [f"{count} {what}" for what, question in counts.items() if (count := session.scalar(question))]
    # A hold is settled by a row with its key; where a part is given back, by a second one too.
    known = session.scalars(select(LedgerEntry.key)).all()
    held, settled = (
        {key.removeprefix(kind) for key in known if key.startswith(kind)} for kind in ("hold:", "settle:")
    )
    if unsettled := held - settled:
        found.append(f"{len(unsettled)} holds that are not settled, such as {min(unsettled)}")
    if wrong := ledger.discrepancies(session):
        found.append(f"balances that are not the sum of their ledger: {wrong}")
    paid = session.scalar(select(func.sum(LedgerEntry.credits)).where(LedgerEntry.movement != Movement.GRANT))
    single = session.scalar(
        select(func.sum(Job.credits)).where(
            Job.status == Status.COMPLETED, Job.paid_by == PaidBy.CREDITS, Job.batch_id.is_(None)
        )
    )
    in_batches = session.scalar(select(func.sum(Batch.charged)))
    if -(paid or 0) != (single or 0) + (in_batches or 0):
        found.append(f"{-(paid or 0)} credits paid for results of {(single or 0) + (in_batches or 0)}")
    return found


def loud_lines(log: Path, start: int) -> Counter[str]:
    """Return the events of a log from its byte `start` on that are more than information, and how often each was told."""
    found: Counter[str] = Counter()
    for line in log.read_bytes()[start:].decode(errors="replace").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            # A traceback that is in no log line was printed by a thread or a library.
            if line.startswith("Traceback"):
                found["a traceback outside the log"] += 1
            continue
        if isinstance(told, dict) and told.get("level") in LOUD:
            found[f"{told['level']}: {told.get('event')}"] += 1
    return found
