"""A long run holds no more memory at its end than near its beginning."""

import ctypes
import gc
import random
import sys
from collections.abc import Callable, Iterator

import pytest

from cutout.inference.cutout import Cutout
from cutout.inference.options import Options
from tests.fakes import fake_engine, photo_bytes

pytestmark = pytest.mark.slow

SETTLE, COUNT = 30, 50  # After SETTLE photos, all threads have started and all caches are full.


class MallInfo2(ctypes.Structure):
    """What glibc's `mallinfo2` returns: sizes in bytes, counted over the heaps of all threads."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated_mb() -> float:
    """Return what this process has allocated and not freed.

    Its resident memory would tell less: it goes up and down by tens of megabytes, with the heap that each thread
    happens to allocate from.
    """
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallInfo2
    info = mallinfo2()
    return float(info.uordblks + info.hblkhd) / 1e6


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="only glibc counts"
)
def test_photos_of_mixed_size_leave_no_memory_allocated() -> None:
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
        for count in (SETTLE, COUNT):
            outcomes = engine.remove_many(photos(count), Options())
            assert sum(isinstance(outcome, Cutout) for _, outcome in outcomes) == count
            gc.collect()
            held.append(allocated_mb())
    finally:
        engine.close()
    # A fifth of the growth if each photo's pixels were leaked.
    mean_mb = sum(width * height * 3 for width, height in shapes) / len(shapes) / 1e6
    assert held[1] - held[0] < COUNT * mean_mb / 5, held
