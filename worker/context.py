"""The shared state of a worker process: the warm engine, database, storage, queue and thread pools."""

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from cutout.app.db.session import Database
from cutout.app.jobs import leases
from cutout.app.jobs.queue import Queue
from cutout.app.observability.tracing import NO_TRACING, Tracing
from cutout.app.storage.base import Storage
from cutout.inference.engine import Engine

# Target duration and largest size of one claim. A short claim lets interactive photos start soon.
CHUNK_SECONDS = 2.0
LARGEST_CHUNK = 64
# Number of results that are stored and committed while the engine works on other photos.
STORING_AT_ONCE = 8


class Pace:
    """Estimate of how many photos fit into one claim, from recent processing times. The first claim is one photo."""

    def __init__(self, seconds: float = CHUNK_SECONDS) -> None:
        self._seconds = seconds
        self._each: float | None = None

    @property
    def most(self) -> int:
        if self._each is None:
            return 1
        return max(1, min(LARGEST_CHUNK, int(self._seconds / max(self._each, 1e-6))))

    def took(self, photos: int, seconds: float) -> None:
        """Update the estimate after a claim; the newest measurement has a weight of one half."""
        each = seconds / photos
        self._each = each if self._each is None else (self._each + each) / 2


class PhotosInHand:
    """The tokens of the claims that this worker holds now. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: set[uuid.UUID] = set()

    @contextmanager
    def holding(self, token: uuid.UUID) -> Iterator[None]:
        """Hold a claim for the duration of the block."""
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
class WorkerContext:
    """Everything a worker needs to process jobs. Claims not renewed within `lease` are free for other workers."""

    engine: Engine
    storage: Storage
    database: Database
    queue: Queue
    lease: timedelta
    # With their masks, so that results can be refined.
    keep_photos: bool = False
    tracing: Tracing = NO_TRACING
    held: PhotosInHand = field(default_factory=PhotosInHand)
    pace: Pace = field(default_factory=Pace)
    stopping: threading.Event = field(default_factory=threading.Event)
    storing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(STORING_AT_ONCE, thread_name_prefix="storing")
    )
    # ZIPs are packed on a thread of their own, so that packing does not delay photos.
    packing: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="packing")
    )

    def renew(self) -> None:
        """Renew the lease of everything that this worker has claimed."""
        tokens = self.held.tokens()
        if tokens:
            with self.database.begin() as session:
                for token in tokens:
                    leases.renew(session, token, self.lease)

    def close(self) -> None:
        """Wait for running storing and packing tasks, then shut down the thread pools."""
        self.storing.shutdown()
        self.packing.shutdown()
