"""The networks as a GPU runs them, on shapes only: nothing is refused there, and the cost stays within its budget."""

import pytest
import torch
from torch import Tensor

from benchmarks.counting import Count
from benchmarks.roofline import count_network
from cutout.inference.backends import cuda
from cutout.inference.backends.runners import TorchRunner
from cutout.models import build_network, gpu_kernels
from cutout.models.optimise import optimise
from tests.pretend_gpu import pretended_gpu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not gpu_kernels.INSTALLED, reason="Triton is published for Linux only"),
]

# Kernels of a run, GB and changes of layout for each photo of it, at a batch of 8: 3 % above what they are.
BUDGETS = {"rmbg-1.4": (226, 1.95, 2), "rmbg-2.0": (674, 10.5, 9)}


@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("rmbg-1.4", True),
        ("rmbg-1.4", False),
        ("rmbg-2.0", True),
        ("birefnet-lite", True),
        ("birefnet-lite", False),
    ],
)
def test_a_network_in_half_precision_can_be_captured(
    name: str, kernels: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without kernels, deformable convolution computes places and values in float32 on purpose."""
    monkeypatch.setattr(cuda, "RUNS_BEFORE_CAPTURE", 0)
    masks: list[Tensor] = []
    with torch.device("meta"):
        network = optimise(build_network(name))
    with pretended_gpu("meta") as gpu, gpu_kernels.only(on=kernels):
        runner = TorchRunner(network, torch.device("cuda"), dtype=torch.float16)
        if kernels:
            gpu.watch(network, torch.float16)
        pixels = torch.zeros(2, 3, 256, 256, device="cuda")

        def run(batch: Tensor) -> Tensor:
            masks.append(runner.run(batch))
            return masks[-1]

        cuda.FixedBatch(run, pixels, None)
    assert [(mask.shape, mask.dtype) for mask in masks] == [((2, 1, 256, 256), torch.float32)]


@pytest.mark.parametrize("name", BUDGETS)
def test_a_network_keeps_to_its_budget(name: str) -> None:
    kernels, gigabytes, layouts = BUDGETS[name]
    count = count_network(name, after=True)
    assert count.kernels <= kernels
    assert count.bytes / 8 / 1e9 <= gigabytes
    assert count.of_group("change of layout").kernels <= layouts
    assert count.waits == []


@pytest.mark.parametrize(("name", "less"), [("rmbg-1.4", 0.6), ("rmbg-2.0", 0.4)])
def test_a_network_as_a_gpu_runs_it_moves_much_less_than_with_ordinary_operators(
    name: str, less: float
) -> None:
    before, after = count_network(name, after=False), count_network(name, after=True)
    assert after.bytes < less * before.bytes
    assert after.kernels < less * before.kernels
    # The products are the same, but for the padding of tiles and channels.
    assert after.flop == pytest.approx(before.flop, rel=0.03)


def test_the_hidden_kernels_of_a_bias_are_counted() -> None:
    before, after = (count_network("rmbg-1.4", after=after) for after in (False, True))
    assert before.of_group("bias of a convolution").kernels == 114
    assert after.of_group("bias of a convolution").kernels == 2  # of the first convolution and the last


def test_nothing_is_counted_twice() -> None:
    count = count_network("rmbg-1.4", after=True)
    assert sum(part.bytes for part in count.groups.values()) == count.bytes
    assert isinstance(count.of_group("convolution"), Count)
