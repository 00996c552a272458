"""Clocks that are wrong, for tests."""

import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from types import ModuleType

import pytest

from cutout.app.db import clock, tables

HERE = tables.now


def set_clock(monkeypatch: pytest.MonkeyPatch, by: timedelta) -> None:
    """Put the clock of this host forward, or back: what `time.time` and the code's `now` return."""
    real = time.time

    def wrong() -> datetime:
        return HERE() + by

    monkeypatch.setattr(time, "time", lambda: real() + by.total_seconds())
    for module in list(sys.modules.values()):
        if module.__name__.startswith("cutout.") and _has_clock(module):
            monkeypatch.setattr(module, "now", wrong)
    # A default is as old as its function.
    monkeypatch.setattr(clock.shared_now, "__defaults__", (wrong,))


def _has_clock(module: ModuleType) -> bool:
    return vars(module).get("now") is HERE


class Steady:
    """A clock that nobody sets, and a wall clock beside it that somebody does."""

    def __init__(self) -> None:
        self.seconds = 1000.0
        self.wall = 1e9

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float, jump: float = 0) -> None:
        self.seconds += seconds
        self.wall += seconds + jump

    @property
    def wall_clock(self) -> Callable[[], float]:
        return lambda: self.wall
