"""Engines that take the time of a network but need no weights; their mask is always a disc.

A network with random weights takes the same time as a trained one, but its masks are noise, and the time of edge
refinement depends on the length of the edge. Therefore the mask is replaced with a soft-edged disc in the centre.
"""

import time
from collections.abc import Callable
from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn

from cutout.inference.backends.runners import Runner, Serving
from cutout.inference.engine import Engine
from cutout.inference.limits import Limits
from cutout.inference.tiers import Choice, Tier
from cutout.models import build_network
from cutout.models.catalog import find
from cutout.models.optimise import optimise
from tests.fakes import disc_mask

RADIUS = 0.3


def network(checkpoint: str) -> nn.Module:
    """Build a checkpoint's network with random weights, optimised for inference."""
    return deepcopy(_network(checkpoint))


@cache
def _network(checkpoint: str) -> nn.Module:
    torch.manual_seed(0)
    return optimise(build_network(checkpoint))


class DiscRunner:
    """Runner that calls `work` for each batch and returns a disc as the mask of every photo."""

    def __init__(
        self,
        work: Callable[[Tensor], object],
        device: torch.device,
        backend: str,
        warm_up: Callable[[int], None] = lambda input_size: None,
    ) -> None:
        self.device = device
        self.backend = backend
        self._work = work
        self._warm_up = warm_up
        self._discs: dict[int, Tensor] = {}

    @classmethod
    def around(cls, runner: Runner) -> "DiscRunner":
        """Return a runner that takes the time of a real one."""
        return cls(runner.run, runner.device, runner.backend, runner.warm_up)

    @classmethod
    def waiting(cls, milliseconds: float) -> "DiscRunner":
        """Return a runner that sleeps this long per photo, without using a core."""
        work = lambda pixels: time.sleep(milliseconds / 1000 * len(pixels))
        return cls(work, torch.device("cpu"), "sleep")

    def run(self, pixels: Tensor) -> Tensor:
        self._work(pixels)
        size = pixels.shape[-1]
        if size not in self._discs:
            self._discs[size] = disc_mask(size, RADIUS).to(self.device)
        return self._discs[size].expand(len(pixels), 1, size, size).clone()

    def warm_up(self, input_size: int) -> None:
        self._warm_up(input_size)  # otherwise the network would run without its CUDA graphs
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))


def engine(runner: Runner, checkpoint: str, limits: Limits) -> Engine:
    """Build an engine that serves every tier with the same runner."""
    serving = {tier: Serving(Choice(tier, find(checkpoint), ()), runner) for tier in Tier}
    return Engine(serving, limits)
