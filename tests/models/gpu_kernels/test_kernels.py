"""Each Triton kernel, run by Triton's interpreter on the CPU, against the operators that it replaces."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.models import birefnet, gpu_kernels, isnet, swin
from cutout.models.birefnet import DeformableBranch
from cutout.models.conv_relu import conv_relu
from cutout.models.gpu_kernels import only
from cutout.models.optimise import FusedWindowAttention, SummedBranch, optimise

pytestmark = pytest.mark.skipif(not gpu_kernels.INSTALLED, reason="Triton is published for Linux only")
ODD_SIZES = [(5, 7), (1, 1), (11, 14)]


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def assert_same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)


def last(*shape: int) -> Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("kernel", "reach", "width"), [(1, 3.0, 13), (3, 0.5, 13), (3, 1e6, 13), (7, 3.0, 7)]
)
def test_a_deformable_branch(kernel: int, reach: float, width: int) -> None:
    """The reach is how far taps read from their places: within the map, over its border, or far outside.

    The wider maps take two programs, which takes the interpreter long with 49 taps.
    """
    plain = DeformableBranch(16, 32, kernel)
    nn.init.normal_(plain.atrous_conv.offset_conv.weight, std=reach / 4)
    branch = SummedBranch(plain.eval(), torch.randn(16, 32, 1, 1))
    x = last(2, 16, 9, width)
    expected = branch(x)
    with only(on=True, everywhere=True):
        assert_same(branch(x), expected)
    assert bool(expected.any()) == (reach < 1e6)


@pytest.mark.parametrize("offset", [-1.0, -0.5, 0.0, 1.0, 8.0, float("1e30")])
def test_offsets_onto_borders_and_out_of_every_integer(offset: float) -> None:
    branch = SummedBranch(DeformableBranch(16, 32, 1).eval(), torch.randn(16, 32, 1, 1))
    branch.place.weight.zero_()
    branch.place.bias.fill_(offset)  # type: ignore[union-attr]
    x = last(1, 16, 8, 8)
    expected = branch(x)
    with only(on=True, everywhere=True):
        assert_same(branch(x), expected)


@pytest.mark.parametrize(
    ("window", "shift", "height", "width"),
    [(7, 3, 10, 17), (7, 0, 14, 7), (12, 6, 20, 13), (12, 0, 12, 12), (4, 2, 5, 9)],
)
def test_attention_within_windows(window: int, shift: int, height: int, width: int) -> None:
    plain = swin.WindowAttention(64, 2, window, shift)
    nn.init.normal_(plain.relative_position_bias_table)
    attention = FusedWindowAttention(plain)
    x = torch.randn(2, height, width, 64)
    expected = attention(x, swin.shift_mask(x, window, shift))
    with only(on=True, everywhere=True):
        assert_same(attention(x, x.new_empty(0)), expected)


@pytest.mark.parametrize("channels", [192, 96, 3072])
def test_normalisation_with_and_without_an_addition(channels: int) -> None:
    norm = nn.LayerNorm(channels)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, delta = 3 + torch.randn(2, 5, 7, channels), torch.randn(2, 5, 7, channels)
    expected = swin.normalised(x, norm), *swin.added_normalised(x, delta, norm)
    with only(on=True, everywhere=True):
        found = swin.normalised(x, norm), *swin.added_normalised(x, delta, norm)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("size", ODD_SIZES)
def test_resizing_joining_and_pooling(size: tuple[int, int]) -> None:
    x, skip, other = last(2, 48, *size), last(2, 32, 11, 14), last(2, 48, 11, 14)

    def results() -> list[Tensor]:
        return [
            isnet.join(x, skip),
            isnet.halve(other),
            birefnet.resize(x, skip),
            birefnet.resize_add(x, other),
            birefnet.join(skip, x),
        ]

    expected = results()
    with only(on=True, everywhere=True):
        found = results()
    for one, two in zip(found, expected, strict=True):
        assert_same(one, two)


def test_a_whole_isnet() -> None:
    network = optimise(isnet.ISNet())
    pixels = torch.rand(1, 3, 20, 28) - 0.5
    expected = network(pixels)
    with only(on=True, everywhere=True):
        assert_same(network(pixels), expected)


def test_half_precision_is_rounded_as_without_the_kernels() -> None:
    norm = nn.LayerNorm(64).half()
    x, delta = torch.randn(3, 64).half(), torch.randn(3, 64).half()
    with only(on=True, everywhere=True):
        total, normed = gpu_kernels.add_layer_norm(x, delta, norm)
    assert total.equal(x + delta)
    expected = F.layer_norm((x + delta).float(), (64,))
    assert (normed.float() - expected).abs().max() <= 2 * torch.finfo(torch.float16).eps


def test_kernels_are_used_on_a_gpu_only_and_may_be_switched_off() -> None:
    x = torch.zeros(1)
    assert not gpu_kernels.usable(x)
    with only(on=True, everywhere=True):
        assert gpu_kernels.usable(x)
        gpu_kernels.switch_off()
        assert not gpu_kernels.usable(x)
    assert not gpu_kernels.usable(x)


@pytest.mark.gpu
def test_cudnn_keeps_what_is_not_a_number() -> None:
    """An overflow shows in the mask only if every layer passes it on; cuDNN's own ReLU may make it 0."""
    conv = nn.Conv2d(8, 8, 3, padding=1).half().cuda().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.full((1, 8, 16, 16), torch.nan, device="cuda", dtype=torch.float16)
    assert conv_relu(conv, nn.Identity(), x.contiguous(memory_format=torch.channels_last)).isnan().all()
    pixels = torch.rand(1, 3, 64, 64, device="cuda", dtype=torch.float16)
    pixels[:, :, 20:24, 20:24] = torch.inf
    network = optimise(isnet.ISNet()).half().cuda()
    assert not network(pixels).isfinite().all()
