"""The fair queue, deadlines and the pixel budget, which limit how long photos wait for others."""

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutout.inference.errors import DeadlineExceeded
from cutout.inference.scheduling.fair_queue import FairQueue
from cutout.inference.scheduling.pixel_budget import PixelBudget
from cutout.inference.scheduling.timers import Timers
from tests.fakes import PATIENCE


def drained(queue: FairQueue[tuple[str, int]]) -> list[tuple[str, int]]:
    taken = []
    while one := queue.take(lambda taken, _: not taken):
        taken += one
    return taken


@given(st.lists(st.sampled_from("abcd"), max_size=40))
def test_callers_take_turns_and_keep_their_order(callers: list[str]) -> None:
    queue: FairQueue[tuple[str, int]] = FairQueue()
    for number, caller in enumerate(callers):
        queue.push(caller, (caller, number))
    assert len(queue) == len(list(queue)) == len(callers)
    taken = drained(queue)
    assert len(queue) == 0
    assert sorted(number for _, number in taken) == list(range(len(callers)))
    for caller in set(callers):
        places = [place for place, (who, _) in enumerate(taken) if who == caller]
        numbers = [number for who, number in taken if who == caller]
        assert numbers == sorted(numbers)
        # Between two items of a caller, each other caller that has items left is served exactly once.
        for before, after in itertools.pairwise(places):
            between = [who for who, _ in taken[before + 1 : after]]
            left = {who for who, _ in taken[before + 1 :]} - {caller}
            assert sorted(between) == sorted(left)


def test_what_does_not_fit_is_passed_over_and_comes_first_next_time() -> None:
    queue: FairQueue[int] = FairQueue()
    for caller, item in (("a", 2), ("b", 3), ("c", 4), ("a", 6)):
        queue.push(caller, item)
    even = queue.take(lambda taken, item: not taken or item % 2 == taken[0] % 2)
    assert even == [2, 4, 6]
    assert list(queue) == [3]


def test_what_is_put_back_has_the_next_turn() -> None:
    queue: FairQueue[int] = FairQueue()
    for caller, item in (("a", 1), ("b", 2), ("a", 3)):
        queue.push(caller, item)
    assert queue.take(lambda taken, _: len(taken) < 2) == [1, 2]
    queue.put_back("b", 2)
    queue.put_back("a", 1)
    assert list(queue) == [1, 3, 2]


def test_what_is_discarded_is_gone() -> None:
    queue: FairQueue[int] = FairQueue()
    queue.push("a", 1)
    queue.discard("a", 2)
    queue.discard("b", 1)
    assert list(queue) == [1]
    queue.discard("a", 1)
    assert not len(queue)
    assert queue.take(lambda taken, _: True) == []


def test_deadlines_are_called_in_their_order_unless_called_off() -> None:
    deadlines = Timers()
    called: list[str] = []
    done = threading.Event()
    with deadlines._changed:  # Hold the lock so that no deadline fires before all are set.
        now = time.monotonic()
        deadlines.call_at(now + 0.08, done.set)
        deadlines.call_at(now + 0.06, lambda: called.append("second"))
        off = deadlines.call_at(now + 0.05, lambda: called.append("never"))
        deadlines.call_at(now + 0.02, lambda: called.append("first"))
        deadlines.call_off(off)
    assert done.wait(PATIENCE)
    assert called == ["first", "second"]
    assert time.monotonic() >= now + 0.08
    deadlines.close()


def test_an_earlier_deadline_than_the_one_slept_for_is_not_missed() -> None:
    deadlines = Timers()
    deadlines.call_at(time.monotonic() + PATIENCE, lambda: None)
    time.sleep(0.02)
    done = threading.Event()
    deadlines.call_at(time.monotonic() + 0.01, done.set)
    assert done.wait(PATIENCE / 2)
    deadlines.close()


def test_what_is_called_off_takes_no_memory() -> None:
    deadlines = Timers()
    later = time.monotonic() + 1000
    for _ in range(5000):
        deadlines.call_off(deadlines.call_at(later, lambda: None))
    assert len(deadlines._entries) < 200
    deadlines.close()


def test_no_more_pixels_are_held_than_the_budget_has() -> None:
    budget = PixelBudget(100)
    lock = threading.Lock()
    held = most = 0

    def work(pixels: int) -> None:
        nonlocal held, most
        with budget.hold(pixels):
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= pixels

    sizes = [10, 90, 40, 40, 60, 5, 100, 30] * 6
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, sizes))
    assert held == 0
    assert 60 < most <= 100


def test_a_photo_larger_than_the_budget_goes_alone() -> None:
    budget = PixelBudget(10)
    with budget.hold(50), pytest.raises(DeadlineExceeded), budget.hold(1, time.monotonic() + 0.02):
        pass
    with budget.hold(10, time.monotonic() + PATIENCE):
        pass


def test_small_photos_do_not_overtake_a_large_one() -> None:
    budget = PixelBudget(10)
    order: list[str] = []

    def work(name: str, pixels: int) -> None:
        with budget.hold(pixels):
            order.append(name)

    with ThreadPoolExecutor(2) as pool, budget.hold(5):
        pool.submit(work, "large", 10)
        while not budget.turns:
            time.sleep(0.001)
        pool.submit(work, "small", 1)
        while len(budget.turns) < 2:
            time.sleep(0.001)
        assert order == []
    assert order == ["large", "small"]


def test_one_that_leaves_lets_in_all_that_fit() -> None:
    budget = PixelBudget(10)
    both = threading.Barrier(2, timeout=PATIENCE)

    def work() -> None:
        with budget.hold(5):
            both.wait()

    with ThreadPoolExecutor(2) as pool:
        with budget.hold(10):
            waiting = [pool.submit(work) for _ in range(2)]
            while len(budget.turns) < 2:
                time.sleep(0.001)
        for one in waiting:
            one.result(PATIENCE)


def test_the_pixels_of_one_that_fails_are_given_back() -> None:
    budget = PixelBudget(10)
    with pytest.raises(ZeroDivisionError), budget.hold(10):
        raise ZeroDivisionError
    with budget.hold(10, time.monotonic() + PATIENCE):
        pass
