"""BiRefNet compared with the published code: its keys, its output on stand-in weights, its optimisations."""

from copy import deepcopy

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cutout.models import build_network
from cutout.models.birefnet import BiRefNet, Decoder
from cutout.models.optimise import REWRITES, SummedBranch, fit_to_gpu, optimise
from tests.conftest import DATA
from tests.parity import filled_state, image, mask_levels, published_state, standin

pytestmark = pytest.mark.slow

REFERENCE = np.load(DATA / "birefnet_reference.npz")
# Maximum mean difference of masks from float32's, in units of 1/255; float16 is well within 2.
HALF = [(torch.float16, 0.5), (torch.bfloat16, 3.0)]
LITE = {"lite": image(256, batch=2), "lite_rect": image(320)[:, :, :320, :224]}
# On no level is its map a whole number of windows.
SMALL = image(96, batch=2)[:, :, :64]


@pytest.fixture(scope="module")
def lite() -> nn.Module:
    return standin("birefnet-lite", published_state("birefnet-lite"))


@pytest.fixture(scope="module")
def optimised(lite: nn.Module) -> nn.Module:
    return optimise(deepcopy(lite))


@pytest.fixture(scope="module")
def large() -> nn.Module:
    return standin("rmbg-2.0", filled_state("rmbg-2.0"))


@torch.inference_mode()
def logits(network: nn.Module, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    out: npt.NDArray[np.float32] = network(torch.from_numpy(pixels)).numpy()
    return out


def test_has_the_published_entries(lite: nn.Module, large: nn.Module) -> None:
    assert len(large.state_dict()) == 754
    assert len(lite.state_dict()) == 586


def test_lite_meets_the_reference_plain_and_optimised(lite: nn.Module, optimised: nn.Module) -> None:
    found = logits(lite, LITE["lite"][:1])
    np.testing.assert_allclose(found, REFERENCE["lite"][:1], atol=1e-4, rtol=0)
    found = logits(optimised, LITE["lite_rect"])
    np.testing.assert_allclose(found, REFERENCE["lite_rect"], atol=1e-4, rtol=0)


def test_each_rewrite_changes_nothing_but_rounding(lite: nn.Module) -> None:
    pixels = SMALL[:1]
    expected = logits(lite, pixels)
    network = deepcopy(lite)
    for rewrite in REWRITES:
        rewrite(network)
        found = logits(network, pixels)
        np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0, err_msg=rewrite.__name__)


def test_large_meets_the_reference_in_either_order_of_patches(
    large: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they are used, optimised; the plain network is compared in the tests of the lite one.

    The order concerns the decoder alone, so that the backbone runs once for both.
    """
    pixels = image(256)
    network = optimise(build_network_like(large, "rmbg-2.0"))
    assert isinstance(network, BiRefNet)
    with torch.inference_mode():
        maps = network.encode(torch.from_numpy(pixels))
    monkeypatch.setattr(network, "encode", lambda pixels: maps)
    for checkpoint, reference in (("birefnet-dynamic", "rmbg2_new_order"), ("rmbg-2.0", "rmbg2")):
        network.decoder.patch_order = decoder_of(checkpoint).patch_order
        np.testing.assert_allclose(logits(network, pixels), REFERENCE[reference], atol=1e-4, rtol=0)


def decoder_of(checkpoint: str) -> Decoder:
    """Return the decoder of a checkpoint's network, without weights."""
    with torch.device("meta"):
        network = build_network(checkpoint)
    assert isinstance(network, BiRefNet)
    return network.decoder


def build_network_like(network: nn.Module, checkpoint: str) -> nn.Module:
    """Build another checkpoint's network with the same weights."""
    with torch.device("meta"):
        other = build_network(checkpoint)
    other.load_state_dict(network.state_dict(), assign=True)
    return other.eval().requires_grad_(False)


def test_a_batch_gives_each_photo_what_it_gets_alone(lite: nn.Module, optimised: nn.Module) -> None:
    for network in (lite, optimised):
        together = logits(network, SMALL)
        alone = np.concatenate([logits(network, SMALL[index : index + 1]) for index in range(2)])
        np.testing.assert_allclose(together, alone, atol=1e-4, rtol=0)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_a_size_that_does_not_fit_is_named(lite: nn.Module) -> None:
    with pytest.raises(ValueError, match="multiples of 32 pixels, not 100×96"):
        lite(torch.zeros(1, 3, 96, 100))


@pytest.mark.parametrize(("dtype", "levels"), HALF)
@torch.inference_mode()
def test_half_precision_stays_close(
    lite: nn.Module, optimised: nn.Module, dtype: torch.dtype, levels: float
) -> None:
    """The plain network in bfloat16 only: in both types it runs the same code, and float16 takes a CPU long."""
    pixels = torch.from_numpy(image(64))
    expected = lite(pixels)
    for network in (optimised, lite) if dtype is torch.bfloat16 else (optimised,):
        found = deepcopy(network).to(dtype)(pixels.to(dtype))
        assert found.dtype == dtype
        assert mask_levels(found, expected) < levels


@pytest.mark.gpu
@pytest.mark.parametrize("size", ["lite", "large"])
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float32, 0.1), *HALF])
@torch.inference_mode()
def test_meets_the_reference_on_a_gpu(
    lite: nn.Module, large: nn.Module, size: str, dtype: torch.dtype, levels: float
) -> None:
    plain, pixels, expected = {
        "lite": (deepcopy(lite), LITE["lite"], REFERENCE["lite"]),
        "large": (build_network_like(large, "rmbg-2.0"), image(256), REFERENCE["rmbg2"]),
    }[size]
    network = optimise(plain).to("cuda", dtype)
    found = network(torch.from_numpy(pixels).to("cuda", dtype)).cpu()
    assert mask_levels(found, torch.from_numpy(expected)) < levels


def test_rewrites_save_what_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published network takes 2,535 GFLOP at 1024²; 146 of them are for padding, 76 for the head, 3 for joining."""
    # In one strip and without interpolation, which takes no products, the same GFLOP are counted sooner.
    monkeypatch.setattr("cutout.models.deform_conv.STRIP_PLACES", 2**30)
    monkeypatch.setattr(F, "grid_sample", of_the_same_shape)
    with torch.device("meta"):
        network = BiRefNet("swin_v1_l", "wg hg c").eval().requires_grad_(False)
        pixels = torch.zeros(1, 3, 1024, 1024)
    left = count_gflop(network, pixels)
    assert left == pytest.approx(2535, abs=1)
    savings = {"fuse_attention": 146, "sum_branches": 3, "fold_head": 76}
    for rewrite in REWRITES:
        rewrite(network)
        if rewrite.__name__ in savings:
            before, left = left, count_gflop(network, pixels)
            assert before - left == pytest.approx(savings.pop(rewrite.__name__), abs=0.5)
    assert not savings


def of_the_same_shape(picture: Tensor, places: Tensor, align_corners: bool) -> Tensor:
    """Return an empty tensor of the shape that `grid_sample` returns."""
    return picture.new_empty(*picture.shape[:2], *places.shape[1:3])


def count_gflop(network: nn.Module, pixels: torch.Tensor) -> float:
    """Count the operations of one run without running it, with tensors on the meta device."""
    with FlopCounterMode(display=False) as counter:
        network(pixels)
    return float(counter.get_total_flops()) / 1e9


def test_what_suits_a_gpu_changes_nothing_but_rounding(optimised: nn.Module) -> None:
    pixels = image(64)
    expected = logits(optimised, pixels)
    fitted = fit_to_gpu(deepcopy(optimised))
    np.testing.assert_allclose(logits(fitted, pixels), expected, atol=1e-4, rtol=0)
    branches = [module for module in fitted.modules() if isinstance(module, SummedBranch)]
    assert branches
    assert all(branch.place.out_channels % 8 == 0 for branch in branches)


def test_nothing_of_training_is_left_after_the_rewrites(optimised: nn.Module) -> None:
    assert not any(isinstance(module, nn.BatchNorm2d) for module in optimised.modules())
    assert not any(
        training in name for name, _ in optimised.named_modules() for training in ("spvn", "convs_pred")
    )
    assert not any(parameter.requires_grad for parameter in optimised.parameters())
