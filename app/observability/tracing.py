"""Traces of requests and removals: what records none. `otlp` has what sends them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

# A stage of a photo, and its begin and end as times of `time.perf_counter`.
Lap = tuple[str, float, float]


class Span:
    """A piece of work in a trace; this one is not recorded."""

    def note(self, **attributes: str | int) -> None:
        """Add attributes; a double underscore in a name stands for a dot."""

    def fail(self, reason: str) -> None:
        """Mark the work as failed."""

    def rename(self, name: str) -> None:
        """Give the span another name."""

    def add_stages(self, laps: Sequence[Lap]) -> None:
        """Add the stages of a photo as children."""


class Tracing:
    """Records spans; this one records none."""

    enabled = False

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Record a request within the block, as a part of the trace that its headers name, if they do."""
        yield Span()

    @contextmanager
    def removal(self, **attributes: str) -> Iterator[Span]:
        """Record a removal within the block, as a part of the request around it."""
        yield Span()

    def removed(
        self, parent: str | None, begin: float, laps: Sequence[Lap], failed: str | None, **attributes: str
    ) -> None:
        """Record a removal that has ended, as a part of the trace `parent`.

        `begin` is a time of `time.perf_counter`; `failed` is the code of its error, if it failed.
        """

    def current(self) -> str | None:
        """Return what names the current span in other processes, as in the header `traceparent`; None if there is none."""
        return None

    def close(self) -> None:
        """Send what is left, for a moment."""


NO_TRACING = Tracing()
