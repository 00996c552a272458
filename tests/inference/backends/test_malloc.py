"""A long run uses no more memory at its end than near its beginning."""

import gc
import random
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.sides.measure import resident_mb
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.cutout import Cutout
from cutout.inference.options import Options
from tests.fakes import fake_engine, photo_bytes

pytestmark = pytest.mark.slow

SETTLE, ROUNDS, COUNT = 40, 4, 25  # After SETTLE photos, all threads have started and all caches are full.


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
def test_hundreds_of_photos_of_mixed_size_do_not_grow_the_process() -> None:
    rng = random.Random(5)
    shapes = [(rng.randrange(50, 900), rng.randrange(50, 700)) for _ in range(12)]
    files = [photo_bytes(*shape, file_format=rng.choice(["JPEG", "PNG", "WEBP"])) for shape in shapes]
    assert max(width * height for width, height in shapes) > 400_000

    def photos(count: int) -> Iterator[tuple[int, Callable[[], bytes]]]:
        for number in range(count):
            data = rng.choice(files)
            yield number, lambda data=data: data  # type: ignore[misc]

    engine = fake_engine()
    try:
        held = []
        for count in (SETTLE, *[COUNT] * ROUNDS):
            outcomes = engine.remove_many(photos(count), Options())
            assert sum(isinstance(outcome, Cutout) for _, outcome in outcomes) == count
            gc.collect()
            give_back_freed()  # The engine itself does this every few seconds.
            held.append(resident_mb())
    finally:
        engine.close()
    # A leak shows in every round. One round may grow: where the allocator finds room depends on how threads take turns.
    grown = [after - before for before, after in pairwise(held)]
    mean_mb = sum(width * height * 3 for width, height in shapes) / len(shapes) / 1e6
    assert min(grown) < COUNT * mean_mb / 5, held  # A fifth of the growth if each photo's pixels were leaked.
