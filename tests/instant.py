"""An event loop for what is about time: nobody has to wait, and how busy the host is makes no difference."""

import asyncio


class InstantLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while there is something to do, and then jumps to what comes next."""

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
