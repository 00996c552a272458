"""`python -m benchmarks selftest [--device cuda] [--report FILE]`: the self-test of `cutout doctor --deep` without weights.

RMBG-1.4 and RMBG-2.0 have stand-in weights, random but of a kind that keeps signals in range through all layers
(`tests.parity`), so that a kernel that computes wrongly shows in the masks. Each device's masks are compared with the
CPU's in float32. It needs torch, numpy, Pillow and the small wheels that `cutout.inference` depends on.
"""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from cutout.inference.selftest.__main__ import main as test
from cutout.inference.selftest.subjects import Subject, stand_in
from cutout.models.catalog import find
from cutout.models.optimise import optimise
from tests import parity

CHECKPOINTS = ("rmbg-1.4", "rmbg-2.0")


def main(arguments: Sequence[str]) -> int:
    """Run the self-test on stand-ins and return the exit code: 1 if anything failed."""
    return test(arguments, stand_ins)


def stand_ins(device: Literal["cuda", "cpu"]) -> list[Subject]:
    """Return both networks with stand-in weights."""
    return [stand_in(find(name), network(name), device) for name in CHECKPOINTS]


def network(checkpoint: str) -> nn.Module:
    """Build a checkpoint's network with stand-in weights, optimised for inference."""
    return optimise(parity.standin(checkpoint, parity.filled_state(checkpoint)))
