"""A worker's bench: the warm engine, and all that a photo passes on its way over it."""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cutout.app.db.session import Database
from cutout.app.db.tables import now
from cutout.app.jobs import leases
from cutout.app.jobs.queue import Queue
from cutout.app.storage.base import Storage
from cutout.inference.engine import Engine

# In one go, so that photos whose callers wait are next soon.
CHUNK_SECONDS = 2.0
LARGEST_CHUNK = 64
# Pictures being stored and committed while others are in the engine.
STORING_AT_ONCE = 8


class Pace:
    """How many photos fit into one go, by how long they took lately. The first go is one photo."""

    def __init__(self, seconds: float = CHUNK_SECONDS) -> None:
        self._seconds = seconds
        self._each: float | None = None

    @property
    def most(self) -> int:
        if self._each is None:
            return 1
        return max(1, min(LARGEST_CHUNK, int(self._seconds / max(self._each, 1e-6))))

    def took(self, photos: int, seconds: float) -> None:
        """Learn from a go; a single one counts half."""
        each = seconds / photos
        self._each = each if self._each is None else (self._each + each) / 2


class Held:
    """The claims that this worker has now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: set[uuid.UUID] = set()

    @contextmanager
    def holding(self, token: uuid.UUID) -> Iterator[None]:
        """Have a claim for as long as the block lasts."""
        with self._lock:
            self._tokens.add(token)
        try:
            yield
        finally:
            with self._lock:
                self._tokens.discard(token)

    def tokens(self) -> list[uuid.UUID]:
        with self._lock:
            return list(self._tokens)


@dataclass
class Bench:
    """What a worker works with. A claim that is not renewed within `lease` is free for others."""

    engine: Engine
    storage: Storage
    database: Database
    queue: Queue
    lease: timedelta
    held: Held = field(default_factory=Held)
    pace: Pace = field(default_factory=Pace)
    stopping: threading.Event = field(default_factory=threading.Event)
    storing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(STORING_AT_ONCE, thread_name_prefix="storing")
    )
    # ZIPs are made beside the photos: what is being packed keeps no caller waiting.
    packing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="packing")
    )

    def renew(self) -> None:
        """Keep all that this worker has claimed for another lease."""
        tokens = self.held.tokens()
        if tokens:
            with self.database.begin() as session:
                for token in tokens:
                    leases.renew(session, token, self.lease, now())

    def in_a_lease(self) -> datetime:
        return now() + self.lease

    def close(self) -> None:
        """Finish what is being stored and packed."""
        self.storing.shutdown()
        self.packing.shutdown()
