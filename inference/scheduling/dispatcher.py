"""The interface through which an engine runs networks, on a local device or remotely."""

from collections.abc import Hashable
from concurrent.futures import Future
from typing import Protocol

from torch import Tensor

from cutout.inference.backends.runners import Runner
from cutout.inference.errors import DeviceLost
from cutout.inference.figures import Figures
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker


class Dispatcher(Protocol):
    """Accepts network inputs from any number of threads, and returns a future for each mask."""

    busy_seconds: float
    """How long networks were at work, since the start."""

    @property
    def lost(self) -> DeviceLost | None:
        """Return the error of the device if it has failed, or else None."""

    @property
    def seconds_each(self) -> float:
        """Return the moving average of the network's seconds per photo; 0 before the first."""

    def require_capacity(self) -> None:
        """Check that an input would be accepted now.

        Raises:
            DeviceLost: the device has failed.
            Overloaded: the remote service has failed too often, and is not called for a while.

        """

    def submit(
        self, kind: Runner, item: Tensor, *, caller: Hashable, deadline: float, spent: float
    ) -> Future[tuple[Tensor, float]]:
        """Submit a network input [1,3,S,S]; the future gives the mask [1,1,S,S] and the seconds it took.

        `deadline` is a time of `time.monotonic` by which the future is done; it is infinite for photos of a batch.
        `spent` is the number of seconds that earlier network runs of the same photo took.
        """

    def lose(self, message: str) -> None:
        """Mark the device as lost, because a photo's other stages failed on it."""

    def close(self) -> None:
        """Finish or cancel the submitted inputs, and stop."""


class RemoteDispatcher(Dispatcher, Protocol):
    """Networks that a remote service runs."""

    location: str
    """The name of the service, such as "huggingface"."""
    breaker: CircuitBreaker
    """Keeps calls from the service while it fails."""
    figures: Figures
    """Counts the calls of the service, and what the engine around it does."""
