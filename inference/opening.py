"""Opens an engine: chooses and loads the checkpoints of its tiers."""

import time
from collections.abc import Iterable

from cutout.inference.backends.gpu_backends import GpuBackend
from cutout.inference.backends.runners import Device, Precision, Serving, open_runner, pick_device
from cutout.inference.engine import Engine
from cutout.inference.limits import DEFAULT_LIMITS, Limits
from cutout.inference.tiers import USUAL, Orders, Tier, choose
from cutout.inference.weights.store import ModelsFolder


def open_engine(
    folder: ModelsFolder,
    device: Device = "auto",
    *,
    tiers: Iterable[Tier] = tuple(Tier),
    precision: Precision = "auto",
    gpu_backend: GpuBackend = "auto",
    limits: Limits = DEFAULT_LIMITS,
    orders: Orders = USUAL,
) -> Engine:
    """Load the checkpoint that serves each of `tiers` on this host; tiers with the same checkpoint share its runner.

    `orders` replaces the usual order of the checkpoints of some tiers.

    Raises:
        ModelUnavailable: the device is not available, or a tier has no usable weights.

    """
    target = pick_device(device)
    batch, choices = limits.batch_on(target), [choose(tier, folder, orders) for tier in tiers]
    runners, loads = {}, {}
    for checkpoint in dict.fromkeys(choice.checkpoint for choice in choices):
        start = time.monotonic()
        runners[checkpoint] = open_runner(checkpoint, folder, target, precision, batch, gpu_backend)
        loads[checkpoint.name] = time.monotonic() - start
    engine = Engine({choice.tier: Serving(choice, runners[choice.checkpoint]) for choice in choices}, limits)
    for name, seconds in loads.items():
        engine.figures.loaded(name, seconds)
    return engine
