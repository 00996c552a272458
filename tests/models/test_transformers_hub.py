"""The transformers classes: repositories as on the hub, whose code is never run, and errors in one line."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pytest
import safetensors.torch
import torch

from cutout.models import swin
from cutout.models.birefnet import BiRefNet
from cutout.models.catalog import CHECKPOINTS, HubSource
from tests.conftest import DATA
from tests.lazily import Lazily
from tests.parity import FEYNOBG, NARROW, image, narrow_feynobg, published_state, standin
from tests.stub_hub import Hub

if TYPE_CHECKING:
    import transformers

    from cutout.models import transformers_hub as hub_models
else:
    transformers, hub_models = Lazily("transformers"), Lazily("cutout.models.transformers_hub")

pytestmark = pytest.mark.slow

PIXELS = torch.from_numpy(image(96)[:, :, :64])

# As published: a model type that transformers does not know, and remote code.
BIREFNET_CONFIG = {
    "_name_or_path": "ZhengPeng7/BiRefNet",
    "architectures": ["BiRefNet"],
    "auto_map": {
        "AutoConfig": "BiRefNet_config.BiRefNetConfig",
        "AutoModelForImageSegmentation": "birefnet.BiRefNet",
    },
    "bb_pretrained": False,
    "model_type": "SegformerForSemanticSegmentation",
}
ISNET_CONFIG = {
    "architectures": ["BriaRMBG"],
    "auto_map": {
        "AutoConfig": "MyConfig.RMBGConfig",
        "AutoModelForImageSegmentation": "briarmbg.BriaRMBG",
    },
    "model_type": "SegformerForSemanticSegmentation",
}


def patch_order(model: "hub_models.MatteModel") -> str:
    assert isinstance(model.network, BiRefNet)
    return model.network.decoder.patch_order


def published_folder(folder: Path, config: Mapping[str, object], keys: str) -> Path:
    """Create a repository as on the hub, with stand-in weights and code that must not run."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.torch.save_file(published_state(keys), folder / "model.safetensors")
    for module in ("BiRefNet_config", "birefnet", "MyConfig", "briarmbg"):
        tripwire = folder / "executed"
        (folder / f"{module}.py").write_text(
            f"open({str(tripwire)!r}, 'w').close()\nraise SystemExit(module)"
        )
    return folder


@pytest.fixture(scope="module")
def birefnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published_folder(
        tmp_path_factory.mktemp("hub") / "BiRefNet_lite", BIREFNET_CONFIG, "birefnet-lite"
    )


@torch.inference_mode()
def test_a_birefnet_loads_by_its_class_and_runs_no_code(birefnet: Path) -> None:
    model = hub_models.BiRefNetModel.from_pretrained(birefnet, trust_remote_code=True)
    expected = standin("birefnet-lite", published_state("birefnet-lite"))(PIXELS)
    torch.testing.assert_close(model(PIXELS).logits, expected, atol=1e-4, rtol=0)
    assert not model.training
    assert not (birefnet / "executed").exists()


@torch.inference_mode()
def test_an_isnet_is_recognised_saved_and_loaded_by_the_auto_class(tmp_path: Path) -> None:
    model = hub_models.from_pretrained(published_folder(tmp_path / "RMBG-1.4", ISNET_CONFIG, "rmbg-1.4"))
    assert isinstance(model, hub_models.ISNetModel)
    assert not (tmp_path / "RMBG-1.4" / "executed").exists()

    model.save_pretrained(tmp_path / "saved")
    with safetensors.safe_open(tmp_path / "saved" / "model.safetensors", "pt") as weights:
        assert set(weights.keys()) == set(published_state("rmbg-1.4"))
    again = transformers.AutoModelForImageSegmentation.from_pretrained(tmp_path / "saved")
    expected = standin("rmbg-1.4", published_state("rmbg-1.4"))(PIXELS)
    torch.testing.assert_close(again(PIXELS).logits, expected, atol=1e-4, rtol=0)


def test_the_order_of_patches_comes_from_the_name_or_the_caller(birefnet: Path, tmp_path: Path) -> None:
    named = tmp_path / "BiRefNet_dynamic"
    named.symlink_to(birefnet)
    assert patch_order(hub_models.from_pretrained(birefnet)) == "wg hg c"
    assert patch_order(hub_models.from_pretrained(named)) == "c hg wg"

    for cached in (
        "ZhengPeng7/BiRefNet_HR-matting",
        "/c/models--ZhengPeng7--BiRefNet_dynamic/snapshots/0af1",
        "/c/models--feyninc--FeyNobg/snapshots/0af1",
    ):
        assert hub_models.order_of(cached) == "c hg wg"
    for checkpoint in CHECKPOINTS.values():
        if checkpoint.network == "birefnet":
            for source in checkpoint.sources:
                assert isinstance(source, HubSource)
                assert hub_models.order_of(source.repository) == checkpoint.patch_order
    with pytest.raises(hub_models.NotLoaded, match="patch_order 'c hw wg' is not one of: wg hg c, c hg wg"):
        hub_models.from_pretrained(birefnet, patch_order="c hw wg")

    told = hub_models.from_pretrained(birefnet, patch_order="c hg wg", dtype=torch.bfloat16)
    assert patch_order(told) == "c hg wg"
    assert told.dtype == torch.bfloat16
    told.save_pretrained(tmp_path / "saved")
    assert patch_order(hub_models.from_pretrained(tmp_path / "saved")) == "c hg wg"


def test_another_depth_and_the_names_of_nobg_are_told_by_the_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(swin.SIZES, "swin_v1_l", NARROW)
    folder = tmp_path / "of-nobg"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"embed_dim": 24, "depths": [2, 2, 24, 2]}))
    safetensors.torch.save_file(narrow_feynobg(), folder / "model.safetensors")
    expected = np.load(DATA / FEYNOBG)["logits"]
    pixels = torch.from_numpy(image(128)[:, :, :96])
    model = hub_models.from_pretrained(folder)
    model.save_pretrained(tmp_path / "saved")
    for loaded in (model, hub_models.from_pretrained(tmp_path / "saved")):
        assert isinstance(loaded, hub_models.BiRefNetModel)
        assert loaded.config.depths == [2, 2, 24, 2]
        with torch.inference_mode():
            np.testing.assert_allclose(loaded(pixels).logits.numpy(), expected, atol=1e-4, rtol=0)


def spoilt(source: Path, target: Path, data: bytes) -> Path:
    target.mkdir()
    (target / "config.json").write_text((source / "config.json").read_text())
    (target / "model.safetensors").write_bytes(data)
    return target


def test_weights_that_will_not_do_are_named_with_the_reason(birefnet: Path, tmp_path: Path) -> None:
    def fails(folder: Path, reason: str) -> None:
        with pytest.raises(hub_models.NotLoaded, match=reason) as caught:
            hub_models.from_pretrained(folder)
        assert "\n" not in str(caught.value)
        assert str(caught.value).startswith(str(folder))

    state = published_state("birefnet-lite")
    whole = (birefnet / "model.safetensors").read_bytes()
    fails(tmp_path / "nowhere", "is not available")
    fails(spoilt(birefnet, tmp_path / "cut", whole[: len(whole) // 2]), "truncated")
    other = safetensors.torch.save({"embed.weight": torch.zeros(3)})
    fails(spoilt(birefnet, tmp_path / "other", other), "neither an IS-Net nor a BiRefNet")
    partial = {name: tensor for name, tensor in state.items() if not name.startswith("decoder.lateral")}
    fails(
        spoilt(birefnet, tmp_path / "partial", safetensors.torch.save(partial)),
        r"6 missing tensors, such as decoder\.lateral_block2\.conv\.bias",
    )
    wide = {"bb.patch_embed.proj.weight": torch.zeros(128, 3, 4, 4)}
    fails(
        spoilt(birefnet, tmp_path / "wide", safetensors.torch.save(wide)),
        "backbone, of width 128, is not one of",
    )
    with pytest.raises(hub_models.NotLoaded, match="ISNetModel cannot load this"):
        hub_models.ISNetModel.from_pretrained(birefnet)


def test_a_gated_repository_names_the_page_and_the_token(
    hub: tuple[str, type[Hub]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub[1].mode = "GatedRepo"
    # What HF_ENDPOINT sets, if it is set before the first import.
    pattern = huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE
    place = pattern.replace(huggingface_hub.constants.ENDPOINT, hub[0])
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", place)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub[0])
    with pytest.raises(hub_models.NotLoaded) as caught:
        hub_models.from_pretrained("briaai/RMBG-2.0", cache_dir=tmp_path)
    assert str(caught.value) == (
        "briaai/RMBG-2.0 is gated: accept its terms on"
        " https://huggingface.co/briaai/RMBG-2.0 and set HF_TOKEN to a token of that account"
    )
