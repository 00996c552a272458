"""Turns: what an engine's photos wait for at a network, be it on a device of this host or far away."""

from collections.abc import Hashable
from concurrent.futures import Future
from typing import Protocol

from torch import Tensor

from cutout.inference.backends.runners import Runner
from cutout.inference.errors import DeviceLost
from cutout.inference.scheduling.circuit_breaker import Breaker


class Turns(Protocol):
    """Takes pixels from any number of threads, and gives each its mask when its turn has come."""

    busy_seconds: float
    """How long networks were at work, since the start."""

    @property
    def lost(self) -> DeviceLost | None:
        """Why nothing more can be run by this process, if so."""

    @property
    def seconds_each(self) -> float:
        """What one photo took of a network's time lately; 0 before the first."""

    def require_room(self) -> None:
        """Return if pixels would be taken now.

        Raises:
            DeviceLost: the device has failed.
            Overloaded: what is far away has failed too often, and is left alone for a while.

        """

    def submit(
        self, kind: Runner, item: Tensor, *, caller: Hashable, deadline: float, spent: float
    ) -> Future[tuple[Tensor, float]]:
        """Hand in pixels [1,3,S,S]; the future gives the mask [1,1,S,S], and the seconds that it took.

        `deadline` is a time of `time.monotonic`, by which the future is done; photos of a batch have none. `spent` is
        how many seconds their photo has had of networks before.
        """

    def lose(self, message: str) -> None:
        """Give the device up, and fail all that waits for it."""

    def close(self) -> None:
        """Finish what was handed in, and stop."""


class RemoteTurns(Turns, Protocol):
    """Networks that a remote service runs."""

    location: str
    """The name of the service, such as "huggingface"."""
    breaker: Breaker
    """Keeps calls from the service while it fails."""
