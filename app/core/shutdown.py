"""The end of a service: how long each part of it may take, so that all of it is over within 30 s."""

import asyncio
import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StopTimes:
    """Seconds of each stage, one after the other but for `uploads`, which runs within `answers`."""

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
        """Until no request is waited for any more."""
        return self.answers + self.give_back + 1.0

    @property
    def whole(self) -> float:
        """Until the process ends, whatever still hangs."""
        return self.requests + self.workers + self.closing + self.queue + 1.0


class Stopping(asyncio.Event):
    """Is set when the service is told to stop, and knows since when."""

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
        """The moment of the monotonic clock when uploads are cut; infinity while nobody has asked to stop."""
        return self._since + self.times.uploads
