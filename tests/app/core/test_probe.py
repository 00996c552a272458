"""Checks of a dependency, asked from an event loop."""

import asyncio
import threading
import time
from datetime import timedelta

from cutout.app.core.probe import Probe
from tests.fakes import PATIENCE


def test_an_answer_that_came_while_the_event_loop_was_late_counts() -> None:
    """A crowd may hold up the event loop for longer than a call waits; the dependency has answered all the same."""
    answered = threading.Event()

    def ask() -> int:
        answered.set()
        return 7

    async def call() -> int:
        await probe.fresh(PATIENCE)
        answered.clear()
        asking = asyncio.create_task(probe.fresh(0.05))
        await asyncio.sleep(0)
        assert answered.wait(PATIENCE)  # holds up the event loop
        time.sleep(0.2)  # noqa: ASYNC251
        return await asking

    # An answer is too old at once, so that only the one to this call counts.
    probe = Probe("test", ask, timedelta(hours=1), timedelta(0))
    probe.start()
    try:
        assert asyncio.run(call()) == 7
    finally:
        probe.stop()
