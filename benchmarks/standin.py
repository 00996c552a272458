"""Engines that take the time of a network but need no weights: what they find is a disc.

A network with random weights takes the same time as a trained one. Its masks are noise, though, and the work at the
edge of a subject depends on how long that edge is; so each photo is given a soft-edged disc in the middle instead.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn

from cutout.inference.backends.runners import Runner
from cutout.inference.engine import Engine, Serving
from cutout.inference.limits import Limits
from cutout.inference.tiers import Choice, Tier
from cutout.models import build_network
from cutout.models.catalog import find
from cutout.models.optimise import optimise
from tests.fakes import disc_mask

RADIUS = 0.3


def network(checkpoint: str) -> nn.Module:
    """Build a checkpoint's network with random weights, as it is run."""
    return deepcopy(_network(checkpoint))


@cache
def _network(checkpoint: str) -> nn.Module:
    torch.manual_seed(0)
    return optimise(build_network(checkpoint))


class DiscRunner:
    """Has `work` done for each batch, and finds a disc in every photo."""

    def __init__(self, work: Callable[[Tensor], object], device: torch.device, backend: str) -> None:
        self.device = device
        self.backend = backend
        self._work = work
        self._discs: dict[int, Tensor] = {}

    @classmethod
    def around(cls, runner: Runner) -> "DiscRunner":
        """Take the time of a real runner."""
        return cls(runner.run, runner.device, runner.backend)

    @classmethod
    def waiting(cls, milliseconds: float) -> "DiscRunner":
        """Take so long for a photo, and no core."""
        work = lambda pixels: time.sleep(milliseconds / 1000 * len(pixels))
        return cls(work, torch.device("cpu"), "sleep")

    def run(self, pixels: Tensor) -> Tensor:
        self._work(pixels)
        size = pixels.shape[-1]
        if size not in self._discs:
            self._discs[size] = disc_mask(size, RADIUS).to(self.device)
        return self._discs[size].expand(len(pixels), 1, size, size).clone()

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))


def engine(runner: Runner, checkpoint: str, limits: Limits) -> Engine:
    """Build an engine that serves every tier with one runner."""
    serving = {tier: Serving(Choice(tier, find(checkpoint), ()), runner) for tier in Tier}
    return Engine(serving, limits)
