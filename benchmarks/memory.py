"""Sixty photos of mixed sizes through the real network, to check that the process's memory does not grow.

The first dozen photos fill every pool and cache. From there to the last photo, resident memory should grow by less
than 5 %.
"""

from collections.abc import Callable, Iterator

from benchmarks import inputs
from benchmarks.report import Table, publish
from benchmarks.sides.measure import resident_mb
from cutout.app.bootstrap import engine_from
from cutout.app.config import settings
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.cutout import Cutout
from cutout.inference.options import Options
from cutout.inference.tiers import Tier

SETTLE, COUNT = 12, 60
MEGAPIXELS = (0.3, 1.0, 2.0, 6.0, 12.0)


def run() -> None:
    """Measure resident memory, print and save the results."""
    photos = [inputs.jpeg(name, size) for size in MEGAPIXELS for name in inputs.SUBJECTS]

    def work(first: int, last: int) -> Iterator[tuple[int, Callable[[], bytes]]]:
        for number in range(first, last):
            yield number, lambda number=number: photos[number % len(photos)]  # type: ignore[misc]

    engine = engine_from(settings.load(), [Tier.BASIC])
    held = []
    try:
        for first, last in ((0, SETTLE), (SETTLE, COUNT)):
            outcomes = engine.remove_many(work(first, last), Options())
            assert all(isinstance(outcome, Cutout) for _, outcome in outcomes)
            give_back_freed()
            held.append(round(resident_mb()))
    finally:
        engine.close()
    growth = held[1] / held[0] - 1
    rows = [
        [f"after {SETTLE}", f"{held[0]} MB"],
        [f"after {COUNT}", f"{held[1]} MB"],
        ["growth", f"{growth:+.1%}"],
    ]
    table = Table(
        f"Memory held over {COUNT} photos of {MEGAPIXELS[0]:g} to {MEGAPIXELS[-1]:g} megapixels",
        ["", ""],
        rows,
    )
    publish("memory", [table], {"photos": COUNT, "held_mb": held, "growth": round(growth, 4)})
