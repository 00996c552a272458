"""The pretended GPU itself: which faults it finds, and that it lets pass what a GPU allows."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention as attention

from benchmarks.counting import Count
from cutout.inference.backends.cuda import FixedBatch, download, upload
from tests.pretend_gpu import DEVICE, Call, Fault, HiddenWait, MixedDevices, MixedTypes, pretended_gpu


class Module(nn.Module):
    """A convolution, and then a function of its map, [1,4,8,8]."""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1).requires_grad_(False)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self.conv(x))


FAULTS: dict[str, tuple[type[Fault], Callable[[Tensor], Tensor]]] = {
    "a constant of the CPU": (MixedDevices, lambda x: x + torch.arange(8).half()),
    "an index of the CPU": (MixedDevices, lambda x: x[:, :, torch.tensor([0, 1])]),
    "joined with the CPU": (MixedDevices, lambda x: torch.cat([x, torch.zeros(1, 1, 8, 8).half()], 1)),
    "a constant in float32": (MixedTypes, lambda x: x * torch.ones(8, device=x.device)),
    "a map in float32": (MixedTypes, lambda x: x.float().exp().half()),
    "attention in float32": (
        MixedTypes,
        lambda x: attention(x.float(), x.float(), x.float()).half(),
    ),
    "item": (HiddenWait, lambda x: x * x.amax().item()),
    "a comparison": (HiddenWait, lambda x: x if x.sum() > 0 else -x),
    "float": (HiddenWait, lambda x: x * float(x[0, 0, 0, 0])),
    "nonzero": (HiddenWait, lambda x: x.flatten()[(x.flatten() > 0).nonzero()[:, 0]]),
    "a boolean index": (HiddenWait, lambda x: x[x > 0]),
    "set by a boolean index": (HiddenWait, lambda x: x.index_put_((x > 0,), x.new_zeros(()))),
    "where": (HiddenWait, lambda x: torch.where(x > 0)[0]),
    "unique": (HiddenWait, lambda x: x.unique()),
    "to the CPU": (HiddenWait, lambda x: x + x.cpu().amax()),
    "to the CPU by name": (HiddenWait, lambda x: x + x.to("cpu").amax()),
    "tolist": (HiddenWait, lambda x: x * x[0, 0, 0].tolist()[0]),
    "numbers of the host": (HiddenWait, lambda x: x * torch.tensor(2.0, device=x.device)),
    "new numbers of the host": (HiddenWait, lambda x: x * x.new_tensor([2.0])),
    "a picture of the host": (HiddenWait, lambda x: x + torch.zeros(8).half().to(x.device)),
}
FINE: dict[str, Callable[[Tensor], Tensor]] = {
    "numbers": lambda x: (2 * x + 1).clamp(0, 1),
    "a CPU tensor of no dimensions": lambda x: x * torch.tensor(2.0),
    "a constant of the device": lambda x: x + torch.arange(8, device=x.device, dtype=x.dtype),
    "indices": lambda x: x[:, :, torch.arange(3, device=x.device)],
    "masking by values": lambda x: torch.where(x > 0, x, torch.nan),
    "a mask multiplied": lambda x: x * (x > 0),
    "slices": lambda x: x[..., 1:3, None].flatten(),
    "set": lambda x: x.index_fill_(3, torch.zeros(1, dtype=torch.int64, device=x.device), 0.0),
}


def run(then: Callable[[Tensor], Tensor]) -> Tensor:
    with pretended_gpu() as gpu:
        module = Module(then).to(device="cuda", dtype=torch.float16)
        gpu.watch(module, torch.float16)
        out: Tensor = module(torch.rand(1, 3, 8, 8, device="cuda", dtype=torch.float16))
        assert out.is_cuda
        return out


@pytest.mark.parametrize("what", FAULTS)
def test_faults_are_found(what: str) -> None:
    fault, then = FAULTS[what]
    with pytest.raises(fault):
        run(then)


@pytest.mark.parametrize("what", FINE)
def test_what_a_gpu_allows_is_allowed(what: str) -> None:
    run(FINE[what])


def test_numpy_cannot_read_the_gpu() -> None:
    with pretended_gpu(), pytest.raises(MixedDevices):
        torch.zeros(3, device="cuda").numpy()


def test_tensors_say_where_they_are_and_the_host_is_as_before() -> None:
    with pretended_gpu():
        here, there = torch.zeros(3), torch.zeros(3, device="cuda")
        assert (here.device.type, here.is_cuda, there.is_cuda) == ("cpu", False, True)
        assert there[1:].view(2, 1).device == there.new_zeros(2).device == DEVICE
        assert there.cpu().is_cpu
        assert torch.cat([here, there.cpu()]).tolist() == [0.0] * 6
    assert not there.is_cuda
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(3, device="cuda:7")


def test_pixels_go_up_from_pinned_memory_and_come_down_with_one_wait() -> None:
    calls: list[Call] = []
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    with pretended_gpu(note=calls.append):
        tensor = upload(pixels, DEVICE)
        np.testing.assert_array_equal(download(tensor + 1), pixels + 1)
    assert [(call.name, call.wait) for call in calls] == [("upload", ""), ("add", ""), ("download", "")]


def test_a_graph_repeats_what_was_captured_and_nothing_else() -> None:
    factor = 2.0
    with pretended_gpu():
        batch = FixedBatch(lambda x: (x * factor).relu_() + 1, torch.zeros(2, 3, device="cuda"), None)
        factor = 5.0
        assert batch(torch.full((2, 3), 4.0, device="cuda")).tolist() == [[9.0] * 3] * 2
        assert batch(torch.full((1, 3), -4.0, device="cuda")).tolist() == [[1.0] * 3]


def test_capturing_refuses_a_wait() -> None:
    with pretended_gpu(), pytest.raises(HiddenWait, match="item"):
        FixedBatch(lambda x: x * float(x.sum()), torch.zeros(2, 3, device="cuda"), None)


def test_costs_of_a_few_operations() -> None:
    count = Count()
    with pretended_gpu("meta", count.note):
        last = torch.channels_last
        x = torch.empty(2, 16, 8, 8, device="cuda", dtype=torch.float16).to(memory_format=last)
        weight = torch.empty(32, 16, 3, 3, device="cuda", dtype=torch.float16).to(memory_format=last)
        bias = torch.empty(32, device="cuda", dtype=torch.float16)
        count.costs.clear()
        out = torch.conv2d(x, weight, bias, padding=1)
        of_x, of_out, of_weight = 2 * 2 * 16 * 64, 2 * 2 * 32 * 64, 2 * 32 * 16 * 9
        convolution, added = count.costs
        assert (convolution.bytes, convolution.flop) == (
            of_x + of_weight + 64 + of_out,
            2 * 2 * 32 * 64 * 144,
        )
        assert (added.name, added.kernels, added.bytes) == ("bias of a convolution", 1, 2 * of_out + 64)

        count.costs.clear()
        torch.conv2d(x.contiguous(), weight, None, padding=1)
        assert [cost.name for cost in count.costs][-1] == "layout for cuDNN"

        count.costs.clear()
        out.permute(0, 2, 3, 1).reshape(2, 64, 32)  # a view
        assert (count.kernels, count.bytes) == (0, 0)
        out.add_(out[:, :1])  # reads all twice, as far as it is, and writes it
        assert count.bytes == 2 * of_out + of_out // 32
        out.contiguous()
        assert count.costs[-1].group == "change of layout"


def test_operations_in_inference_mode_are_the_same() -> None:
    def names(*, inference: bool) -> list[str]:
        calls: list[Call] = []
        with pretended_gpu("meta", calls.append), torch.inference_mode(inference), torch.no_grad():
            x = torch.empty(1, 4, 8, 8, device="cuda")
            nn.functional.linear(x, torch.empty(3, 8, device="cuda"), torch.empty(3, device="cuda"))
            nn.functional.interpolate(x, scale_factor=2.0, mode="bilinear").reshape(4, -1).isfinite()
        return [call.name for call in calls]

    assert names(inference=True) == names(inference=False)
