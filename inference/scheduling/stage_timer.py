"""Where a photo's time goes, by stage."""

import time

# `wait` is for the photo's turn: at the pixel budget, and at the device.
STAGES = ("decode", "wait", "network", "edges", "encode")


class Stopwatch:
    """Seconds by stage, each lap counted from the one before; a stage that comes again adds up."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now

    def move(self, source: str, target: str, seconds: float) -> None:
        """Count `seconds` of one stage as another's."""
        self.seconds[source] = max(0.0, self.seconds[source] - seconds)
        self.seconds[target] += seconds
