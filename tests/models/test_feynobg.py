"""FeyNobg, a BiRefNet with a deeper backbone, compared with its published code and with transformers' Swin."""

import json
from copy import deepcopy

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from cutout.models import build_network, swin
from cutout.models.birefnet import BiRefNet
from cutout.models.optimise import optimise
from cutout.models.state_dicts import depths_of, renamed
from cutout.models.swin import SwinTransformer
from tests.conftest import DATA
from tests.parity import FEYNOBG, NARROW, fill, image, mask_levels, narrow_feynobg

pytestmark = pytest.mark.slow

DEPTHS = (2, 2, 24, 2)
PIXELS = image(128)[:, :, :96]


@pytest.fixture(scope="module")
def narrow() -> nn.Module:
    """Return FeyNobg's network on a narrow backbone, with stand-in weights loaded strictly."""
    with pytest.MonkeyPatch.context() as patched, torch.device("meta"):
        patched.setitem(swin.SIZES, "swin_v1_l", NARROW)
        network = build_network("feynobg")
    network.load_state_dict(renamed(narrow_feynobg()), strict=True, assign=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def optimised(narrow: nn.Module) -> nn.Module:
    return optimise(deepcopy(narrow))


def reference() -> npt.NDArray[np.float32]:
    logits: npt.NDArray[np.float32] = np.load(DATA / FEYNOBG)["logits"]
    return logits


@torch.inference_mode()
def test_it_gives_what_the_published_code_gives(narrow: nn.Module, optimised: nn.Module) -> None:
    for network in (narrow, optimised):
        found = network(torch.from_numpy(PIXELS)).numpy()
        np.testing.assert_allclose(found, reference(), atol=1e-4, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "levels"), [(torch.float16, 0.5), (torch.bfloat16, 3.0)])
def test_half_precision_stays_close(optimised: nn.Module, dtype: torch.dtype, levels: float) -> None:
    pixels = torch.from_numpy(image(64))  # float16 takes a CPU long
    found = deepcopy(optimised).to(dtype)(pixels.to(dtype))
    assert found.dtype == dtype
    assert mask_levels(found, optimised(pixels)) < levels


def test_the_published_entries_are_those_of_its_network() -> None:
    published = {}
    for line in (DATA / "feynobg.keys.tsv").read_text().splitlines():
        name, _, shape = line.partition("\t")
        sizes = () if shape == "scalar" else tuple(map(int, shape.split("x")))
        published[name] = torch.empty(sizes, device="meta")
    with torch.device("meta"):
        network = build_network("feynobg")
    state = renamed(published)
    assert len(published) == 930
    assert {name: part.shape for name, part in state.items()} == {
        name: part.shape for name, part in network.state_dict().items()
    }
    assert depths_of(state) == DEPTHS
    assert sum(parameter.numel() for parameter in network.parameters()) == 262_779_906


@torch.inference_mode()
def test_the_backbone_gives_what_that_of_transformers_gives() -> None:
    """In float64, on maps that are no whole windows: blocks in another order, or with another shift, would be seen."""
    from transformers import SwinConfig  # takes a while, and each test process collects this file
    from transformers.models.swin.modeling_swin import SwinBackbone

    theirs = SwinBackbone(
        SwinConfig(
            embed_dim=16,
            depths=list(DEPTHS),
            num_heads=[1, 2, 4, 8],
            window_size=4,
            out_features=[f"stage{number}" for number in range(1, 5)],
        )
    )
    state: dict[str, Tensor] = {}
    for name, part in theirs.state_dict().items():
        floats = part.is_floating_point()
        state[f"bb.{name}"] = torch.from_numpy(fill(name, tuple(part.shape))).double() if floats else part
    theirs.double().load_state_dict({name.removeprefix("bb."): part for name, part in state.items()})
    ours = SwinTransformer(swin.SwinSize(16, DEPTHS, (1, 2, 4, 8), 4)).double()
    ours.load_state_dict({name.removeprefix("bb."): part for name, part in renamed(state).items()})

    pixels = torch.from_numpy(image(128)[:, :, :104]).double()
    for found, expected in zip(ours(pixels), theirs.eval()(pixels).feature_maps, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)
        assert expected.std() > 0.1


def test_depths_are_those_of_the_backbone_unless_told() -> None:
    with torch.device("meta"):
        assert depths_of(BiRefNet("swin_v1_t", "wg hg c").state_dict()) == (2, 2, 6, 2)
        assert depths_of(BiRefNet("swin_v1_t", "wg hg c", (1, 2, 3, 4)).state_dict()) == (1, 2, 3, 4)
        assert depths_of(build_network("rmbg-1.4").state_dict()) == ()


# Bytes of the files as the hub publishes them, with or without metadata in their headers.
PUBLISHED = {
    "lucida": ("rmbg-2.0", 4, 884_878_856),
    "birefnet-hr-matting": ("rmbg-2.0", 2, 444_473_596),
    "birefnet-lite-2k": ("birefnet-lite", 4, 177_634_392),
    "feynobg": ("feynobg", 4, 1_051_353_168),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_file_is_as_large_as_a_file_of_the_tensors_listed(name: str) -> None:
    """So its tensors have these names, these shapes and this precision: the header alone would betray another name."""
    keys, width, published = PUBLISHED[name]
    header: dict[str, object] = {} if name == "feynobg" else {"__metadata__": {"format": "pt"}}
    entries = []
    for line in (DATA / f"{keys}.keys.tsv").read_text().splitlines():
        tensor, _, shape = line.partition("\t")
        sizes = [] if shape in ("", "scalar") else [int(size) for size in shape.split("x")]
        floats = not tensor.endswith(("num_batches_tracked", "relative_position_index"))
        entries.append((width if floats else 8, tensor, sizes))
    end = 0
    for bytes_each, tensor, sizes in sorted(entries, key=lambda entry: (-entry[0], entry[1])):
        start, end = end, end + bytes_each * int(np.prod(sizes, dtype=int))
        dtype = {2: "F16", 4: "F32", 8: "I64"}[bytes_each]
        header[tensor] = {"dtype": dtype, "shape": sizes, "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + length + -length % 8 + end == published
