"""Periodic background calls with which a worker shows that it is alive."""

import threading
from collections.abc import Callable
from datetime import timedelta
from types import TracebackType
from typing import Self

import structlog

log = structlog.get_logger()

# How long leaving the block waits for a running beat, which may hang on the database or the queue.
PATIENCE_SECONDS = 2.0


class Heartbeat:
    """Context manager that calls `beat` on its own thread at an interval. A failed beat is logged and skipped."""

    def __init__(self, name: str, every: timedelta, beat: Callable[[], None]) -> None:
        self._every = every.total_seconds()
        self._beat = beat
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            try:
                self._beat()
            except Exception as error:  # noqa: BLE001 - the database or queue may be down; the next beat may pass
                log.warning("heartbeat skipped", beat=self._thread.name, detail=str(error))
