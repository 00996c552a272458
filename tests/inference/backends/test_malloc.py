"""When freed memory is given back to the system."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from cutout.inference.backends import malloc
from cutout.inference.backends.malloc import TIDY_EVERY_SECONDS, Tidier


class Clock:
    """A clock that stands until it is moved, and the calls that are due at it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Callable[[], None]]] = []

    def call_at(self, when: float, work: Callable[[], None]) -> None:
        self.due.append((when, work))

    def move(self, seconds: float) -> None:
        """Let time pass, and make the calls that are due in it."""
        end = self.now + seconds
        while self.due and (next_one := min(self.due, key=lambda one: one[0]))[0] <= end:
            self.due.remove(next_one)
            self.now = next_one[0]
            next_one[1]()
        self.now = end


def test_memory_is_given_back_during_a_burst_and_once_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given_back = Clock(), list[float]()
    monkeypatch.setattr(malloc, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(malloc, "give_back_freed", lambda: given_back.append(clock.now - 1000))
    tidier = Tidier(clock.call_at)
    for _ in range(3 * int(TIDY_EVERY_SECONDS)):
        clock.move(1)
        tidier.tidy()
    assert given_back == [TIDY_EVERY_SECONDS, 2 * TIDY_EVERY_SECONDS, 3 * TIDY_EVERY_SECONDS]
    clock.move(100)
    assert given_back[3:] == [4 * TIDY_EVERY_SECONDS]
    assert not clock.due, "it goes on although nothing happens"
    # A single photo later on is followed up as well.
    tidier.tidy()
    clock.move(100)
    assert len(given_back) == 6
