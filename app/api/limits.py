"""How often something may be tried."""

import threading
import time
from collections import deque

from app.errors import Problem

WRONG_PASSWORDS = 5
WITHIN_SECONDS = 60.0
# Addresses that are remembered at once; beyond it the oldest are forgotten.
MOST_ADDRESSES = 10_000


class LoginLimit:
    """Makes an e-mail address wait after wrong passwords, so that nobody can try them all."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failures: dict[str, deque[float]] = {}

    def check(self, email: str) -> None:
        """Return if this address may be tried.

        Raises:
            Problem: 429, with the seconds to wait.

        """
        with self._lock:
            times = self._recent(email)
            if len(times) < WRONG_PASSWORDS:
                return
            wait = max(1, round(times[0] + WITHIN_SECONDS - time.monotonic()))
        raise Problem(
            429,
            "RATE_LIMITED",
            f"Too many wrong passwords. Try again in {wait} s.",
            {"Retry-After": str(wait)},
        )

    def failed(self, email: str) -> None:
        """Count a wrong password."""
        with self._lock:
            times = self._recent(email)
            times.append(time.monotonic())
            self._failures.pop(_name(email), None)
            self._failures[_name(email)] = times
            if len(self._failures) > MOST_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))

    def _recent(self, email: str) -> deque[float]:
        times = self._failures.get(_name(email), deque())
        while times and times[0] < time.monotonic() - WITHIN_SECONDS:
            times.popleft()
        return times


def _name(email: str) -> str:
    return email.strip().lower()
