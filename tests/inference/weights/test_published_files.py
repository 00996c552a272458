"""Files of weights as others publish them: other names, prefixes of training, pickles; and depths that do not fit."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights import files, own
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models import swin
from cutout.models.birefnet import BiRefNet
from cutout.models.catalog import Checkpoint, find
from cutout.models.state_dicts import renamed
from tests.conftest import DATA
from tests.parity import FEYNOBG, NARROW, image, narrow_feynobg

PIXELS = torch.from_numpy(image(128)[:, :, :96])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelsFolder:
    """Return an empty models folder, for large BiRefNets that are narrow."""
    monkeypatch.setitem(swin.SIZES, "swin_v1_l", NARROW)
    return ModelsFolder(tmp_path / "models")


@torch.inference_mode()
def meets_the_reference(checkpoint: Checkpoint, folder: ModelsFolder) -> None:
    expected = np.load(DATA / FEYNOBG)["logits"]
    found = load_network(checkpoint, folder)(PIXELS).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=0)


def place(folder: ModelsFolder, checkpoint: Checkpoint) -> Path:
    file = folder.file(checkpoint)
    file.parent.mkdir(parents=True)
    return file


@pytest.mark.slow
def test_feynobg_is_served_as_it_is_published(folder: ModelsFolder) -> None:
    safetensors.torch.save_file(narrow_feynobg(), place(folder, find("feynobg")))
    meets_the_reference(find("feynobg"), folder)


@pytest.mark.slow
def test_toonout_is_served_as_it_is_published(folder: ModelsFolder) -> None:
    """A pickle of a network that was trained with DistributedDataParallel and torch.compile; here it is a deeper one."""
    checkpoint = replace(find("toonout"), depths=find("feynobg").depths, sha256=None)
    state = {f"module._orig_mod.{name}": part for name, part in renamed(narrow_feynobg()).items()}
    torch.save(state, place(folder, checkpoint))
    meets_the_reference(checkpoint, folder)


@pytest.mark.slow
def test_own_weights_may_be_a_pickle_with_another_size_and_order(
    folder: ModelsFolder, tmp_path: Path
) -> None:
    file = tmp_path / "epoch_7.pth"
    torch.save({"model": {f"_orig_mod.{n}": p for n, p in narrow_feynobg().items()}, "epoch": 7}, file)
    added = own.add(folder, file, "shop-v3", "feynobg", own.Unlike(2048, "wg hg c"))
    assert (added.input_size, added.patch_order, added.depths) == (2048, "wg hg c", (2, 2, 24, 2))
    assert '--like feynobg --name shop-v3 --input-size 2048 --patch-order "wg hg c"' in added.install_command
    assert own.find(folder, "shop-v3") == added
    network = load_network(added, folder)
    assert isinstance(network, BiRefNet)
    assert network.decoder.patch_order == "wg hg c"
    again = own.add(folder, file, "shop-v3", "feynobg", replacing=True)
    assert own.find(folder, "shop-v3") == again
    assert (again.input_size, again.patch_order) == (1024, "c hg wg")


def test_a_depth_that_does_not_fit_is_told_with_what_fits(folder: ModelsFolder, tmp_path: Path) -> None:
    file = tmp_path / "deep.safetensors"
    safetensors.torch.save_file(renamed(narrow_feynobg()), file)
    with pytest.raises(
        WeightsUnavailable,
        match="has 2-2-24-2 blocks from 24 channels instead of 2-2-18-2 blocks from 24 channels, as has that of --like"
        r" feynobg\); give",
    ):
        own.add(folder, file, "shop-v3", "rmbg-2.0")
    shallow = {n: p for n, p in renamed(narrow_feynobg()).items() if ".2.blocks.2" not in n}
    safetensors.torch.save_file(shallow, file)
    with pytest.raises(WeightsUnavailable, match=r"2-2-19-2 .* which no checkpoint of the catalogue has"):
        own.add(folder, file, "shop-v3", "feynobg")
    assert own.own_checkpoints(folder) == {}


@pytest.mark.parametrize(
    ("unlike", "like", "told"),
    [
        (
            own.Unlike(input_size=1000),
            "lucida",
            "an input size of 1000 is not possible; give a multiple of 32",
        ),
        (own.Unlike(input_size=0), "lucida", "in 256…4096"),
        (own.Unlike(patch_order="hg wg c"), "lucida", "give one of: wg hg c, c hg wg"),  # type: ignore[arg-type]
        (own.Unlike(patch_order="c hg wg"), "rmbg-1.4", "rmbg-1.4 has no patches"),
    ],
)
def test_what_no_network_can_do_is_refused(
    folder: ModelsFolder, unlike: own.Unlike, like: str, told: str
) -> None:
    with pytest.raises(WeightsUnavailable, match=told):
        own.add(folder, Path("my.safetensors"), "shop-v3", like, unlike)
    assert not folder.path.exists()


class Opens:
    """An object whose pickle makes a file when it is read, if it may run code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.file), "w")


def test_no_file_of_weights_runs_code_or_is_taken_if_it_is_broken(
    folder: ModelsFolder, tmp_path: Path
) -> None:
    whole, file = tmp_path / "whole.pth", tmp_path / "my.pth"
    torch.save({"weight": torch.zeros(100)}, whole)
    pickled = pickle.dumps({"weight": Opens(tmp_path / "executed")}, protocol=2)
    evil = tmp_path / "evil.pth"
    torch.save({"weight": Opens(tmp_path / "executed")}, evil)
    for data in (
        pickled,
        evil.read_bytes(),
        whole.read_bytes()[:-40],
        whole.read_bytes()[:40],
        b"",
        b"weights",
        pickle.dumps({"weight": 1.5}, protocol=2),
    ):
        file.write_bytes(data)
        with pytest.raises(
            WeightsUnavailable, match=r"my\.pth cannot be added: it .* safetensors\.torch"
        ) as caught:
            own.add(folder, file, "shop-v3", "lucida")
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match=r"^it "):
            files.read(file)
    assert not (tmp_path / "executed").exists()
    assert list(folder.own.iterdir()) == []


def test_prefixes_of_training_go_and_names_without_them_stay() -> None:
    part = torch.zeros(1)
    for prefix in ("", "module.", "_orig_mod.", "module._orig_mod.", "model."):
        state: dict[str, Tensor] = {f"{prefix}stage1.rebnconvin.conv_s1.bias": part}
        assert list(renamed(state)) == ["stage1.rebnconvin.conv_s1.bias"]
