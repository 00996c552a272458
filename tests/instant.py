"""An event loop for tests about time: no test really waits, and the load of the host does not matter."""

import asyncio


class InstantLoop(asyncio.SelectorEventLoop):
    """Event loop whose clock stands still while there is work, and then jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0

    def time(self) -> float:
        return self._now

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            due = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            self._now = max([self._now, *([min(due)] if due else [])])
        super()._run_once()  # type: ignore[misc]
