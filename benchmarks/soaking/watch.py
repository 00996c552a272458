"""The course of a load: what its service's processes held over time, and whether that grew."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from benchmarks.soaking.processes import Held, held, roles

SAMPLE_SECONDS = 2.0
MOST_GROWTH = 0.05
# Below these, growth is noise: a process of 10 MB grows by 5 % with one more thread. A pool opens its last connections
# and threads whenever chance first needs them.
NOISE_MB, NOISE_DESCRIPTORS, NOISE_THREADS = 5.0, 6, 6
# A pool of five connections to SQLite, with up to three files each, that was not full yet.
POOL_DESCRIPTORS = 16


@dataclass
class Course:
    """Samples of what the processes of each role hold, and the ids of all processes that there were.

    Those at rest are taken in pauses of the load: under load, more photos at once hold more memory, which is no growth.
    """

    samples: list[dict[str, Held]] = field(default_factory=list)
    at_rest: list[dict[str, Held]] = field(default_factory=list)
    processes: dict[str, set[int]] = field(default_factory=dict)

    def sample(self, process: int) -> None:
        """Add what a process and its descendants hold now."""
        by_role = roles(process)
        for role, pids in by_role.items():
            self.processes.setdefault(role, set()).update(pids)
        self.samples.append(held(by_role))

    async def follow(self, process: int) -> None:
        """Add samples until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.to_thread(self.sample, process)
            await asyncio.sleep(max(0.0, SAMPLE_SECONDS - (time.monotonic() - began)))

    def rest(self, process: int) -> None:
        """Add what a process and its descendants hold in a pause of the load."""
        self.at_rest.append(held(roles(process)))

    def quarters(self, role: str, measure: "Measure") -> list[float]:
        """Return a measure in each quarter of the time: the mean of its pauses, or the lower quartile under load."""
        samples = self.at_rest if measure.is_at_rest else self.samples
        found = [measure.of(sample[role]) for sample in samples if role in sample]
        size = max(1, len(found) // 4)
        quarters = [found[n * size : (n + 1) * size] or found[-1:] for n in range(4)]
        summary = np.mean if measure.is_at_rest else lower_quartile
        return [float(summary(quarter)) for quarter in quarters]

    def restarts(self) -> list[str]:
        """Return the roles of which a process was replaced."""
        return [f"{role}: {len(pids)} processes" for role, pids in self.processes.items() if len(pids) > 1]


def lower_quartile(values: Sequence[float]) -> float:
    """Return what is held between two bursts of work."""
    return float(np.quantile(values, 0.25))


@dataclass(frozen=True)
class Measure:
    """Something that processes hold, and how much more of it is noise."""

    name: str
    of: Callable[[Held], float]
    noise: float
    share: float = 0.0
    is_at_rest: bool = False


MEASURES = (
    Measure("MB at rest", lambda one: one.pss_mb, NOISE_MB, MOST_GROWTH, is_at_rest=True),
    Measure("descriptors", lambda one: one.descriptors, NOISE_DESCRIPTORS),
    Measure("threads", lambda one: one.threads, NOISE_THREADS),
)


def growth(course: Course) -> list[str]:
    """Return what grew from the third quarter of the time to the fourth, by more than is noise."""
    found = []
    for role in course.processes:
        for measure in MEASURES:
            *_, before, after = course.quarters(role, measure)
            if after - before > max(measure.noise, measure.share * before):
                found.append(
                    f"{role}: {before:.0f} {measure.name} in the third quarter, {after:.0f} in the last"
                )
    return found


def not_given_back(before: Mapping[str, Held], after: Mapping[str, Held]) -> list[str]:
    """Return the descriptors that a service, idle before a load and after it, holds since."""
    return [
        f"{role}: {before[role].descriptors} descriptors when idle before, {now.descriptors} after"
        for role, now in after.items()
        if role in before and now.descriptors - before[role].descriptors > POOL_DESCRIPTORS
    ]


def as_rows(course: Course) -> list[list[str]]:
    """Return a row for each role and measure, with a figure for each quarter of the time."""
    return [
        [role, measure.name, *(f"{value:.0f}" for value in course.quarters(role, measure))]
        for role in sorted(course.processes)
        for measure in MEASURES
    ]


def thinned(course: Course, most: int = 120) -> list[dict[str, dict[str, float]]]:
    """Return at most about so many samples, for the file of results."""
    step = -(-len(course.samples) // most) or 1
    kept: Sequence[Mapping[str, Held]] = course.samples[::step]
    return [{role: asdict(one) for role, one in sample.items()} for sample in kept]
