"""A timer that measures how long each stage of a photo takes."""

import time

# "wait" is the time spent waiting for the pixel budget and for the device.
STAGES = ("decode", "wait", "network", "edges", "encode")


class StageTimer:
    """Measures seconds by stage. Each lap starts at the end of the one before; repeated stages add up.

    `laps` are times of `time.perf_counter`.
    """

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self.laps: list[tuple[str, float, float]] = []  # each stage with its begin and end
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self.laps.append((stage, self._last, now))
        self._last = now

    def move(self, source: str, target: str, seconds: float) -> None:
        """Move the last `seconds` of a lap that has just ended to another stage."""
        self.seconds[source] = max(0.0, self.seconds[source] - seconds)
        self.seconds[target] += seconds
        stage, begin, end = self.laps.pop()
        middle = max(begin, end - seconds)
        self.laps += [(stage, begin, middle), (target, middle, end)]
