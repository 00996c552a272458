"""A photo that an engine works on, as its callers gave it."""

import time
import weakref
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from math import inf

from cutout.inference.cutout import Cutout
from cutout.inference.masked_photo import AnySource
from cutout.inference.options import Options

# Is told how many frames of an animation are done, and how many it has.
Progress = Callable[[int, int], None]


@dataclass(eq=False)
class Request:
    """A photo being processed; `read` returns it, `deadline` is a time of `time.monotonic`.

    The future is held weakly: the error's traceback refers to this request, and the future refers to the error.
    """

    read: Callable[[], AnySource] = field(repr=False)
    options: Options
    caller: Hashable
    keep_masks: bool
    deadline: float = inf
    progress: Progress | None = field(default=None, repr=False)
    is_wanted: Callable[[], bool] = field(default=lambda: True, repr=False)
    entered: float = field(default_factory=time.monotonic, init=False)
    turn: float = field(default=0.0, init=False)  # seconds until a thread took it
    future: "weakref.ref[Future[Cutout]] | None" = field(default=None, init=False, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether nobody waits for the result any more: it was cancelled, or is past its deadline, or `is_wanted` says so."""
        future = None if self.future is None else self.future()
        return future is None or future.done() or not self.is_wanted()
