"""IS-Net compared with the published network: its keys, and its output on stand-in weights."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from cutout.models import build_network
from cutout.models.catalog import CHECKPOINTS, UnknownCheckpoint
from cutout.models.optimise import optimise
from tests.conftest import DATA
from tests.parity import image, mask_levels, published_state, standin

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return standin("rmbg-1.4", published_state("rmbg-1.4"))


def test_has_the_published_entries() -> None:
    assert len(published_state("rmbg-1.4")) == 798


@torch.inference_mode()
def test_meets_the_reference_plain_and_optimised(network: nn.Module) -> None:
    expected = np.load(DATA / "isnet_reference.npz")["rmbg14"]
    pixels = torch.from_numpy(image(256, batch=2))

    plain = network(pixels[:1])
    assert plain.shape == (1, 1, 256, 256)
    np.testing.assert_allclose(plain.sigmoid().numpy(), expected[:1], atol=1e-4, rtol=0)

    optimised = optimise(deepcopy(network))
    np.testing.assert_allclose(optimised(pixels).sigmoid().numpy(), expected, atol=1e-4, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimised.modules())


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float16, 0.5), (torch.bfloat16, 3.0)])
@torch.inference_mode()
def test_half_precision_stays_close(
    network: nn.Module, device: str, dtype: torch.dtype, levels: float
) -> None:
    pixels = torch.from_numpy(image(64))
    half = optimise(deepcopy(network)).to(device, dtype)
    assert mask_levels(half(pixels.to(device, dtype)).cpu(), network(pixels)) < levels


@torch.inference_mode()
def test_takes_sizes_that_do_not_halve_evenly() -> None:
    assert build_network("isnet-general").eval()(torch.zeros(1, 3, 75, 101)).shape == (1, 1, 75, 101)


def test_every_checkpoint_has_a_network_and_an_unknown_one_is_named() -> None:
    with torch.device("meta"):
        for name in CHECKPOINTS:
            assert isinstance(build_network(name), nn.Module)
    with pytest.raises(
        UnknownCheckpoint, match=r"no checkpoint 'resnet'\. Choose one of: rmbg-1\.4, isnet-general"
    ):
        build_network("resnet")
