"""Shutdown times: how long each stage may take, so that the service stops within 30 s."""

import asyncio
import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StopTimes:
    """Seconds for each stage. The stages follow one another, except `uploads`, which runs during `answers`."""

    uploads: float = 3.0
    """Until uploads that still come are cut."""
    answers: float = 9.0
    """Until photos in work are given up, and answers that are being sent are cut."""
    give_back: float = 2.0
    """For those to give back what was taken for them; then connections are ended."""
    workers: float = 8.0
    """Until workers that still have photos in hand are killed; other workers do those photos again."""
    closing: float = 4.0
    """For the engine to end."""
    queue: float = 4.0
    """For the queue to write what it has."""

    @property
    def requests(self) -> float:
        """Seconds after which no request is waited for any more."""
        return self.answers + self.give_back + 1.0

    @property
    def whole(self) -> float:
        """Seconds after which the process exits, even if something still hangs."""
        return self.requests + self.workers + self.closing + self.queue + 1.0


class Stopping(asyncio.Event):
    """Event that is set when the service is told to stop; it records the time."""

    def __init__(self, times: StopTimes | None = None) -> None:
        super().__init__()
        self.times = times or StopTimes()
        self._since = math.inf

    def set(self) -> None:
        if not self.is_set():
            self._since = time.monotonic()
        super().set()

    @property
    def uploads_end(self) -> float:
        """The time on the monotonic clock when uploads are cut off; infinity while no stop is requested."""
        return self._since + self.times.uploads
