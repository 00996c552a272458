"""A wrong order of BiRefNet's patches is caught: in a runner, in the weights, and in the code."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from cutout.inference.backends.runners import TorchRunner
from cutout.inference.selftest import networks, weights
from cutout.inference.selftest.checklist import Failed, Skipped
from cutout.inference.selftest.subjects import Subject
from cutout.models.birefnet import BiRefNet, Decoder
from cutout.models.catalog import PatchOrder, find
from cutout.models.optimise import optimise
from tests.inference.selftest.subjects import CPU
from tests.parity import published_state, standin

LITE = replace(find("birefnet-lite"), input_size=64)
OTHER: PatchOrder = "c hg wg"


def lite() -> BiRefNet:
    network = standin("birefnet-lite", published_state("birefnet-lite"))
    assert isinstance(network, BiRefNet)
    return network


def in_the_other_order() -> nn.Module:
    network = lite()
    network.decoder.patch_order = OTHER
    return optimise(network)


@pytest.mark.slow
def test_a_runner_with_the_other_order_is_caught_and_named() -> None:
    subject = Subject(LITE, (), trained=False, network=lambda: optimise(lite()), open=lambda *_: right)
    right, wrong = (TorchRunner(network, CPU) for network in (subject.network(), in_the_other_order()))
    reference = networks.make_reference(subject.network(), subject)
    networks.same_masks(subject, right, "float32", reference)
    with pytest.raises(Failed, match="patches are stacked in the order 'c hg wg'") as caught:
        networks.same_masks(subject, wrong, "float32", reference)
    assert "graph-*.onnx" in caught.value.fix


def trained(order: PatchOrder) -> BiRefNet:
    """Return a network whose weights for one pixel's colours are alike, as after training in this order."""
    with torch.device("meta"):
        network = BiRefNet("swin_v1_t", "wg hg c")
    generator = torch.Generator().manual_seed(0)
    for block in (network.decoder.ipt_blk2, network.decoder.ipt_blk3):
        outputs, channels = block.conv1.weight.shape[:2]
        pixel = torch.randn(outputs, 1, channels // 3, 3, 3, generator=generator)
        colours = pixel + torch.randn(outputs, 3, channels // 3, 3, 3, generator=generator)
        stacked = colours.transpose(1, 2) if order == "wg hg c" else colours
        block.conv1.weight = nn.Parameter(stacked.flatten(1, 2), requires_grad=False)
    return network


def test_weights_of_the_other_order_are_caught() -> None:
    assert "fit" in weights.order_fits_weights(trained("wg hg c"), LITE).text
    with pytest.raises(Failed, match="trained with the other order of patches than 'wg hg c'"):
        weights.order_fits_weights(trained(OTHER), LITE)
    assert "fit" in weights.order_fits_weights(trained(OTHER), find("birefnet-hr")).text
    with pytest.raises(Skipped, match="do not tell"):
        weights.order_fits_weights(lite(), LITE)
    with pytest.raises(Skipped, match="began as others"):
        weights.order_fits_weights(trained(OTHER), replace(LITE, order_shows=False))
    with pytest.raises(Skipped, match="has no patches"):
        weights.order_fits_weights(nn.Identity(), LITE)


def test_code_that_stacks_patches_wrongly_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    weights.patches_are_in_order()
    patches = Decoder.patches

    def turned(self: Decoder, pixels: Tensor, like: Tensor) -> Tensor:
        self.patch_order = OTHER
        return patches(self, pixels, like)

    monkeypatch.setattr(Decoder, "patches", turned)
    with pytest.raises(Failed, match="'wg hg c' are stacked wrongly"):
        weights.patches_are_in_order()
