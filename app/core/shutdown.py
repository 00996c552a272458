"""Shutdown times: how long each stage may take, so that the service stops within 30 s."""

import asyncio
import math
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class StopTimes:
    """Seconds for each stage. The stages follow one another, except `uploads`, which runs during `answers`."""

    uploads: float = 3.0
    """Uploads that are still arriving are cut off after this time."""
    answers: float = 9.0
    """Photos in progress are abandoned, and responses being sent are cut off, after this time."""
    give_back: float = 2.0
    """Abandoned requests may take this long to release what they hold; then their connections are closed."""
    workers: float = 8.0
    """Workers that are still processing photos are killed after this time; other workers redo those photos."""
    closing: float = 4.0
    """Time for the engine to stop."""
    queue: float = 4.0
    """Time for the queue to write its data."""

    @property
    def requests(self) -> float:
        """Seconds after which no request is waited for any more."""
        return self.answers + self.give_back + 1.0

    @property
    def whole(self) -> float:
        """Seconds after which the process exits, even if something still hangs."""
        return self.requests + self.workers + self.closing + self.queue + 1.0


class Shutdown(asyncio.Event):
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
