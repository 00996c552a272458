"""The models folder and what is loaded from it: licences, damage, the wrong architecture, the choice by tier."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from inference.errors import DeviceUnavailable, LicenceNotAccepted, WeightsUnavailable
from inference.folder import ModelsFolder
from inference.runners import OnnxRunner, pick_device
from inference.tiers import Tier, choose
from inference.weights import load_network
from models import build_network
from models.catalog import Checkpoint, find
from tests.models.test_isnet import published_state

RMBG = find("rmbg-1.4")
OPEN = find("isnet-general")


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path)


def place(folder: ModelsFolder, checkpoint: Checkpoint, data: bytes) -> None:
    file = folder.file(checkpoint)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def test_published_safetensors_load_and_give_what_the_network_gives(folder: ModelsFolder) -> None:
    folder.accept_licence(RMBG)
    place(folder, RMBG, safetensors.torch.save(published_state()))
    plain = build_network(RMBG.name).eval()
    plain.load_state_dict(published_state())
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(RMBG, folder)(pixels), plain(pixels), atol=1e-4, rtol=1e-4)


def test_missing_weights_name_the_command(folder: ModelsFolder) -> None:
    with pytest.raises(WeightsUnavailable, match=r"isnet-general: .*run: cutout models pull isnet-general"):
        load_network(OPEN, folder)


def test_a_licence_must_be_accepted_in_the_folder_or_by_setting(folder: ModelsFolder) -> None:
    place(folder, RMBG, b"whatever")
    with pytest.raises(
        LicenceNotAccepted, match=r"bria-rmbg-1\.4 not accepted \(non-commercial.*--accept-licence"
    ):
        folder.check(RMBG)
    replace(folder, accepted=("rmbg-1.4",)).check(RMBG)
    folder.accept_licence(RMBG)
    folder.check(RMBG)


def test_a_file_that_was_cut_off_is_damaged(folder: ModelsFolder) -> None:
    place(folder, OPEN, b"the first half")
    with pytest.raises(WeightsUnavailable, match="is damaged"):
        load_network(OPEN, folder)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("model.safetensors", b"not safetensors at all"),
        ("model.safetensors", safetensors.torch.save({"conv_in.weight": torch.zeros(3)})),
        ("model.safetensors", safetensors.torch.save(nn.Linear(2, 2).state_dict())),
        ("model.onnx", b"not onnx at all"),
        ("model.onnx", b""),
    ],
)
def test_another_architecture_is_named_as_such(folder: ModelsFolder, file: str, data: bytes) -> None:
    checkpoint = replace(OPEN, file=file, sha256=hashlib.sha256(data).hexdigest())
    place(folder, checkpoint, data)
    with pytest.raises(WeightsUnavailable, match=r"does not hold an? isnet network"):
        load_network(checkpoint, folder)


def test_a_tier_takes_its_own_checkpoint_before_a_substitute(folder: ModelsFolder) -> None:
    with pytest.raises(
        WeightsUnavailable,
        match=r"No checkpoint for tier basic is ready: rmbg-1\.4: licence .*; isnet-general: weights not downloaded",
    ):
        choose(Tier.BASIC, folder)

    place(folder, OPEN, b"weights")
    choice = choose(Tier.BASIC, folder)
    assert (choice.checkpoint.name, choice.wanted, choice.substitute) == ("isnet-general", "rmbg-1.4", True)
    assert len(choice.passed_over) == 1

    folder.accept_licence(RMBG)
    place(folder, RMBG, b"weights")
    choice = choose(Tier.BASIC, folder)
    assert (choice.checkpoint.name, choice.substitute, choice.passed_over) == ("rmbg-1.4", False, ())
    assert choose(Tier.STANDARD, folder).substitute


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error(tmp_path: Path) -> None:
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(DeviceUnavailable, match="CUTOUT_DEVICE=cuda, but"):
        pick_device("cuda")
    with pytest.raises(DeviceUnavailable, match="CUDAExecutionProvider"):
        OnnxRunner(tmp_path / "graph.onnx", "cuda")
