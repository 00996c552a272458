"""Batch sizes: what did not fit into the memory is left for a while, then tried again, ever less often."""

from collections.abc import Iterator

import pytest

from cutout.inference.errors import OutOfMemory
from cutout.inference.scheduling import batch_sizes
from cutout.inference.scheduling.batch_sizes import FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, BatchSizes
from cutout.inference.scheduling.batcher import Batcher
from cutout.inference.scheduling.timers import Timers
from tests.fakes import PATIENCE


class Clock:
    """A clock that goes on only when told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_sizes_grow_again_step_by_step(clock: Clock) -> None:
    sizes: BatchSizes[str] = BatchSizes(8, 2, clock)
    sizes.too_large("a", 8)
    sizes.too_large("a", 4)
    assert (sizes.largest("a"), sizes.largest("b")) == (2, 8), "each network has its own"
    clock.now += 2 * FIRST_PAUSE_SECONDS - 1
    assert sizes.largest("a") == 2
    clock.now += 1
    assert sizes.largest("a") == 4
    assert sizes.largest("a") == 4, "one step at a time"
    clock.now += 2 * FIRST_PAUSE_SECONDS
    assert sizes.largest("a") == 8
    clock.now += LONGEST_PAUSE_SECONDS
    assert sizes.largest("a") == 8


def test_what_never_fits_is_tried_ever_less_often(clock: Clock) -> None:
    sizes: BatchSizes[str] = BatchSizes(5, 2, clock)
    pauses = []
    for _ in range(9):
        sizes.too_large("a", 5)
        failed = clock.now
        while sizes.largest("a") < 4:
            clock.now += FIRST_PAUSE_SECONDS
        pauses.append(clock.now - failed)
    assert pauses[:3] == [60, 120, 240]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_single_photo_is_always_allowed(clock: Clock) -> None:
    sizes: BatchSizes[str] = BatchSizes(1, 1, clock)
    sizes.too_large("a", 1)
    sizes.too_many()
    assert (sizes.largest("a"), sizes.most_started()) == (1, 1)


def test_two_batches_at_once_are_tried_again(clock: Clock) -> None:
    sizes: BatchSizes[str] = BatchSizes(4, 2, clock)
    sizes.too_many()
    assert sizes.most_started() == 1
    clock.now += FIRST_PAUSE_SECONDS
    assert sizes.most_started() == 2


@pytest.fixture
def deadlines() -> Iterator[Timers]:
    deadlines = Timers()
    yield deadlines
    deadlines.close()


def test_a_batcher_takes_large_batches_again_when_there_is_room(
    deadlines: Timers, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    room = 2

    def launch(_: str, items: list[int]) -> object:
        started.append(len(items))
        if len(items) > room:
            raise OutOfMemory("the memory is full")
        return lambda: items

    monkeypatch.setattr(batch_sizes.BatchSizes.__init__, "__defaults__", (clock,))
    batcher: Batcher[str, int, int] = Batcher(launch, deadlines, max_batch=4, max_wait=PATIENCE)  # type: ignore[arg-type]

    def run_eight() -> list[int]:
        started.clear()
        futures = [batcher.submit("a", number) for number in range(8)]
        assert [future.result(PATIENCE) for future in futures] == list(range(8))
        return list(started)

    assert run_eight()[0] == 4
    assert run_eight() == [2, 2, 2, 2]
    clock.now += FIRST_PAUSE_SECONDS
    assert run_eight()[0] == 4, "tried again, in vain"
    room = 4
    assert run_eight() == [2, 2, 2, 2]
    clock.now += 2 * FIRST_PAUSE_SECONDS
    assert run_eight() == [4, 4]
    batcher.close()
