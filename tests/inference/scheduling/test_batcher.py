"""The batcher on a fake device: every call gets its own result or error in time, whatever the device does."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, wait
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutout.inference.errors import CutoutError, DeviceLost, NetworkFailed, OutOfMemory, Overloaded
from cutout.inference.scheduling.batcher import Batcher
from cutout.inference.scheduling.timers import Timers
from tests.fakes import PATIENCE, wait_until

pytestmark = pytest.mark.slow

Ask = tuple[str, int]  # kind of network, number of the photo
FakeBatcher = Batcher[str, int, tuple[str, int]]


@dataclass
class Device:
    """Returns each item as its result. A batch with a `broken` item fails; more than `room` items do not fit."""

    seconds: float = 0.0
    broken: frozenset[int] = frozenset()
    room: int = 1000
    fails_late: bool = False  # Raise when the result is awaited, not at the launch.
    go_on: threading.Event = field(default_factory=threading.Event)
    batches: list[tuple[str, list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.go_on.set()

    def launch(self, kind: str, items: Sequence[int]) -> Callable[[], list[tuple[str, int]]]:
        self.batches.append((kind, list(items)))

        def finish() -> list[tuple[str, int]]:
            assert self.go_on.wait(PATIENCE)
            time.sleep(self.seconds * len(items))
            self.check(items)
            return [(kind, item) for item in items]

        if not self.fails_late:
            self.check(items)
        return finish

    def check(self, items: Sequence[int]) -> None:
        if len(items) > self.room:
            raise OutOfMemory("the memory is full")
        if self.broken.intersection(items):
            raise ValueError("not to be run")


@pytest.fixture
def deadlines() -> Iterator[Timers]:
    deadlines = Timers()
    yield deadlines
    deadlines.close()


def outcome(future: Future[tuple[str, int]]) -> tuple[str, int] | str:
    """Wait for a call; return its result, or the name of its error."""
    try:
        return future.result(PATIENCE)
    except FutureTimeout:
        if not future.done():
            pytest.fail("a caller was left waiting")
        raise
    except (CancelledError, CutoutError) as error:
        return type(error).__name__


calls = st.lists(
    st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", "z"]), st.booleans(), st.booleans()),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(
    calls=calls,
    max_batch=st.integers(1, 6),
    max_wait=st.sampled_from([0.0, 0.002]),
    room=st.integers(0, 6),
    fails_late=st.booleans(),
)
def test_every_call_gets_its_own_answer_or_error(
    calls: list[tuple[str, str, bool, bool]], max_batch: int, max_wait: float, room: int, fails_late: bool
) -> None:
    """Two networks, three callers; some photos are broken, some calls are cancelled, memory may be short."""
    broken = frozenset(number for number, (_, _, is_broken, _) in enumerate(calls) if is_broken)
    device = Device(broken=broken, room=room, fails_late=fails_late)
    deadlines = Timers()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=max_batch, max_wait=max_wait)
    answered: list[int] = []
    futures = []
    for number, (kind, caller, _, cancelled) in enumerate(calls):
        future = batcher.submit(kind, number, caller=caller)
        future.add_done_callback(lambda _, number=number: answered.append(number))  # type: ignore[misc]
        if cancelled:
            future.cancel()
        futures.append(future)
    outcomes = [outcome(future) for future in futures]
    batcher.close()
    deadlines.close()

    for number, ((kind, _, is_broken, cancelled), found) in enumerate(zip(calls, outcomes, strict=True)):
        if cancelled and found == "CancelledError":
            continue
        if room == 0:
            assert found == "OutOfMemory"
        elif is_broken:
            assert found == "NetworkFailed"
        else:
            assert found == (kind, number)
    assert sorted(answered) == list(range(len(calls))), "each once"
    assert all(len(items) <= max_batch for _, items in device.batches)
    assert all(calls[item][0] == kind for kind, items in device.batches for item in items)
    assert_in_order(calls, device)


def assert_in_order(calls: list[tuple[str, str, bool, bool]], device: Device) -> None:
    """Check that each caller's photos first reached the device in the order in which they were submitted."""
    seen: dict[int, None] = dict.fromkeys(item for _, items in device.batches for item in items)
    for caller in "xyz":
        mine = [item for item in seen if calls[item][1] == caller]
        assert mine == sorted(mine)


@settings(max_examples=25, deadline=None)
@given(
    delays=st.lists(st.floats(0, 0.05), min_size=1, max_size=15),
    seconds=st.sampled_from([0.0, 0.004, 0.02, None]),
)
def test_no_call_outlasts_its_deadline(delays: list[float], seconds: float | None) -> None:
    """However long the device takes for each item, even forever."""
    device = Device(seconds=seconds or 0.0)
    if seconds is None:
        device.go_on.clear()
    deadlines = Timers()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2)
    futures = [
        batcher.submit("a", number, deadline=time.monotonic() + delay) for number, delay in enumerate(delays)
    ]
    outcomes = [outcome(future) for future in futures]
    if seconds is None:
        assert set(outcomes) == {"DeadlineExceeded"}
    assert all(found in (("a", number), "DeadlineExceeded") for number, found in enumerate(outcomes))
    device.go_on.set()
    batcher.close()
    deadlines.close()


def test_a_photo_alone_does_not_wait_for_company(deadlines: Timers) -> None:
    device = Device()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=8)
    assert outcome(batcher.submit("a", 1)) == ("a", 1)
    assert device.batches == [("a", [1])]
    batcher.close()


def test_those_who_come_while_a_batch_runs_go_together(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=4)
    futures = [batcher.submit("a", 0)]
    wait_until(lambda: device.batches == [("a", [0])])
    futures += [batcher.submit("a", number) for number in range(1, 4)]
    time.sleep(0.02)
    assert len(device.batches) == 1, "three are no full batch"
    device.go_on.set()
    assert [outcome(future) for future in futures] == [("a", number) for number in range(4)]
    assert device.batches == [("a", [0]), ("a", [1, 2, 3])]
    batcher.close()


def test_a_full_batch_is_started_behind_the_one_that_runs(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2, max_wait=PATIENCE)
    futures = [batcher.submit("a", number) for number in range(6)]
    wait_until(lambda: len(device.batches) == 2)
    time.sleep(0.02)
    assert device.batches == [("a", [0, 1]), ("a", [2, 3])], "and no third one"
    device.go_on.set()
    assert len({outcome(future) for future in futures}) == 6
    batcher.close()


def test_a_batch_that_becomes_full_while_one_runs_is_started_at_once(deadlines: Timers) -> None:
    """On a GPU the second batch is queued behind the first, so that the device does not wait for it."""
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2)
    futures = [batcher.submit("a", 0)]
    wait_until(lambda: device.batches == [("a", [0])])
    futures.append(batcher.submit("a", 1))
    time.sleep(0.02)
    assert len(device.batches) == 1, "one photo is no full batch"
    futures.append(batcher.submit("a", 2))
    wait_until(lambda: device.batches == [("a", [0]), ("a", [1, 2])])
    assert not any(future.done() for future in futures), "the first batch still runs"
    futures += [batcher.submit("a", number) for number in (3, 4)]
    time.sleep(0.02)
    assert len(device.batches) == 2, "two batches are on the device"
    device.go_on.set()
    assert [outcome(future) for future in futures] == [("a", number) for number in range(5)]
    batcher.close()


def test_a_device_that_dies_with_two_batches_on_it_fails_both(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()

    def launch(kind: str, items: Sequence[int]) -> Callable[[], list[tuple[str, int]]]:
        finish = device.launch(kind, items)

        def finish_or_die() -> list[tuple[str, int]]:
            finish()
            raise DeviceLost("the device has failed")

        return finish_or_die

    batcher: FakeBatcher = Batcher(launch, deadlines, max_batch=2)
    futures = [batcher.submit("a", number) for number in range(5)]
    wait_until(lambda: len(device.batches) == 2)
    device.go_on.set()
    assert [outcome(future) for future in futures] == ["DeviceLost"] * 5
    batcher.close()
    assert not any(thread.is_alive() for thread in batcher._threads)


def test_a_batch_waits_for_others_only_so_long(deadlines: Timers) -> None:
    device = Device()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=3, max_wait=1.0)
    start = time.monotonic()
    futures = [batcher.submit("a", number) for number in range(2)]
    assert [outcome(future) for future in futures] == [("a", 0), ("a", 1)]
    assert time.monotonic() - start >= 1.0
    assert device.batches == [("a", [0, 1])]
    batcher.close()


def test_what_is_cancelled_never_meets_the_device_and_frees_its_place(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_started=1, max_waiting=2)
    futures = [batcher.submit("a", 0)]
    wait_until(lambda: bool(device.batches))
    futures += [batcher.submit("a", number) for number in (1, 2)]
    with pytest.raises(Overloaded):
        batcher.submit("a", 3)
    assert futures[1].cancel()
    futures.append(batcher.submit("a", 4))
    device.go_on.set()
    assert [outcome(future) for future in futures] == [("a", 0), "CancelledError", ("a", 2), ("a", 4)]
    assert [items for _, items in device.batches] == [[0], [2], [4]]
    batcher.close()


def test_callers_take_turns(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=1)
    futures = [batcher.submit("a", number, caller="studio") for number in range(20)]
    wait_until(lambda: len(device.batches) == 2)  # One batch is running and one is ready.
    futures.append(batcher.submit("a", 100, caller="shop"))
    device.go_on.set()
    for future in futures:
        outcome(future)
    order = [item for _, items in device.batches for item in items]
    assert order.index(100) <= 3
    batcher.close()


def test_four_hundred_at_once_end_in_answers_and_overloaded(deadlines: Timers) -> None:
    """As many threads as calls, and a device that is slow at first; waiting calls stay within the limit."""
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=4, max_waiting=64)
    barrier = threading.Barrier(400)
    outcomes: list[tuple[str, int] | str] = [""] * 400
    most = 0

    def call(number: int) -> None:
        nonlocal most
        barrier.wait()
        try:
            future = batcher.submit("a", number, caller=number % 7)
        except Overloaded:
            outcomes[number] = "Overloaded"
            return
        most = max(most, len(batcher._waiting))
        outcomes[number] = outcome(future)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(400)]
    for thread in threads:
        thread.start()
    wait_until(lambda: "Overloaded" in outcomes)
    device.go_on.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert all(found in (("a", number), "Overloaded") for number, found in enumerate(outcomes))
    assert 64 <= sum(found != "Overloaded" for found in outcomes) < 400
    assert most <= 64
    assert not batcher._open
    assert not deadlines._rings
    batcher.close()


@pytest.mark.parametrize("fails_late", [False, True])
def test_one_bad_photo_fails_alone(deadlines: Timers, fails_late: bool) -> None:
    device = Device(broken=frozenset({2}), fails_late=fails_late)
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=4, max_wait=PATIENCE)
    futures = [batcher.submit("a", number) for number in range(4)]
    assert [outcome(future) for future in futures] == [("a", 0), ("a", 1), "NetworkFailed", ("a", 3)]
    assert device.batches[0] == ("a", [0, 1, 2, 3])
    assert [items for _, items in device.batches[1:]] == [[0], [1], [2], [3]]
    error = futures[2].exception()
    assert isinstance(error, NetworkFailed)
    assert isinstance(error.__cause__, ValueError)
    batcher.close()


@pytest.mark.parametrize("fails_late", [False, True])
def test_a_batch_too_large_for_the_memory_is_halved_and_so_are_the_next(
    deadlines: Timers, fails_late: bool
) -> None:
    device = Device(room=2, fails_late=fails_late)
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=8, max_wait=PATIENCE)
    first = [batcher.submit("a", number) for number in range(8)]
    assert [outcome(future) for future in first] == [("a", number) for number in range(8)]
    tried = [len(items) for _, items in device.batches]
    assert tried[:2] == [8, 4]
    device.batches.clear()
    second = [batcher.submit("a", number) for number in range(8)]
    assert [outcome(future) for future in second] == [("a", number) for number in range(8)]
    assert max(len(items) for _, items in device.batches) <= 2
    batcher.close()


def test_a_memory_that_holds_one_batch_gets_one_at_a_time(deadlines: Timers) -> None:
    """A second batch does not fit next to the first, but each batch fits alone."""
    on_device: list[int] = []
    started: list[int] = []

    def launch(kind: str, items: Sequence[int]) -> Callable[[], list[tuple[str, int]]]:
        started.append(len(items))
        if len(on_device) + len(items) > 4:
            raise OutOfMemory("the memory is full")
        on_device.extend(items)

        def finish() -> list[tuple[str, int]]:
            time.sleep(0.002)
            on_device.clear()
            return [(kind, item) for item in items]

        return finish

    batcher: FakeBatcher = Batcher(launch, deadlines, max_batch=4, max_wait=PATIENCE)
    futures = [batcher.submit("a", number) for number in range(16)]
    assert [outcome(future) for future in futures] == [("a", number) for number in range(16)]
    assert started == [4, 4, 4, 4, 4]  # One of the batches is launched twice.
    batcher.close()


def test_a_device_that_hangs_leaves_nobody_waiting(deadlines: Timers) -> None:
    device = Device()
    device.go_on.clear()
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2, stuck_after=0.5)
    lost: list[bool] = []
    late = batcher.submit("a", 0, deadline=time.monotonic() + 0.05)
    late.add_done_callback(lambda _: lost.append(batcher.lost is not None))
    patient = [batcher.submit("a", number, deadline=math.inf) for number in range(1, 6)]
    assert outcome(late) == "DeadlineExceeded"
    assert lost == [False]
    assert [outcome(future) for future in patient] == ["DeviceLost"] * 5
    with pytest.raises(DeviceLost, match=r"not answered for 0.5 s"):
        batcher.submit("a", 7)
    batcher.close()  # It does not wait for the device.
    device.go_on.set()


def test_a_dead_device_fails_all_at_once(deadlines: Timers) -> None:
    started = threading.Event()
    go_on = threading.Event()

    def launch(kind: str, items: Sequence[int]) -> Callable[[], list[tuple[str, int]]]:
        def finish() -> list[tuple[str, int]]:
            started.set()
            go_on.wait(PATIENCE)
            raise DeviceLost("CUDA error: an illegal memory access was encountered")

        return finish

    batcher: FakeBatcher = Batcher(launch, deadlines, max_batch=2)
    futures = [batcher.submit("a", number) for number in range(10)]
    started.wait(PATIENCE)
    go_on.set()
    assert [outcome(future) for future in futures] == ["DeviceLost"] * 10
    with pytest.raises(DeviceLost, match="illegal memory access"):
        batcher.submit("a", 11)
    assert batcher.lost
    batcher.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_the_batcher_itself_leaves_nobody_waiting(deadlines: Timers) -> None:
    """A device that returns fewer results than it was given items breaks the contract."""
    batcher: FakeBatcher = Batcher(lambda kind, items: list, deadlines)
    assert outcome(batcher.submit("a", 1)) == "DeviceLost"
    batcher.close()


def test_what_was_handed_in_is_finished_at_closing(deadlines: Timers) -> None:
    device = Device(seconds=0.002)
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2, max_wait=PATIENCE)
    futures = [batcher.submit("a", number) for number in range(9)]
    batcher.close()
    done, left = wait(futures, timeout=0)
    assert (len(done), len(left)) == (9, 0)
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", 1)


def test_busy_time_counts_what_overlaps_once(deadlines: Timers) -> None:
    device = Device(seconds=0.02)
    batcher: FakeBatcher = Batcher(device.launch, deadlines, max_batch=2)
    start = time.monotonic()
    wait([batcher.submit("a", number) for number in range(8)])
    batcher.close()
    elapsed = time.monotonic() - start
    assert 0.15 < batcher.busy_seconds <= elapsed
    assert 0.015 < batcher.seconds_each < elapsed
