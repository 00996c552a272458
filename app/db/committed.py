"""Counts of what transactions did, which are added up only when a transaction is committed."""

import threading
from collections import Counter

from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

COUNTED = "cutout counts"
# The kind of what is counted, and one of its few values for each label.
What = tuple[str, ...]


class Committed:
    """Adds up what the committed transactions of some sessions have counted. Thread-safe."""

    def __init__(self, sessions: sessionmaker[Session]) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[What] = Counter()
        event.listen(sessions, "after_commit", self._add)

    def of(self, kind: str) -> dict[What, int]:
        """Return the counts of one kind, by the other words of each."""
        with self._lock:
            return {what[1:]: number for what, number in self._counts.items() if what[0] == kind}

    def _add(self, session: Session) -> None:
        # At the end of a savepoint the transaction may still be rolled back.
        if session.in_nested_transaction():
            return
        counted = session.info.pop(COUNTED, None)
        if counted:
            with self._lock:
                for what, number in counted.items():
                    self._counts[what] += number


def count(session: Session, what: What, number: int = 1) -> None:
    """Count what the transaction of a session does; it counts once the transaction is committed."""
    counted: Counter[What] = session.info.setdefault(COUNTED, Counter())
    counted[what] += number
