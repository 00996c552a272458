"""The models folder and loading from it: licences, damaged files, wrong architectures, the choice by tier."""

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from cutout.app import bootstrap
from cutout.app.config.settings import load as load_settings
from cutout.inference.backends import runners
from cutout.inference.backends.runners import pick_device
from cutout.inference.errors import DeviceUnavailable, LicenceNotAccepted, WeightsUnavailable
from cutout.inference.tiers import Tier, choose
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint, find
from tests.parity import image, published_state, standin

pytestmark = pytest.mark.slow

RMBG = find("rmbg-1.4")
OPEN = find("isnet-general")
RMBG_2 = find("rmbg-2.0")
LITE = find("birefnet-lite")


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path)


def place(folder: ModelsFolder, checkpoint: Checkpoint, data: bytes) -> None:
    file = folder.file(checkpoint)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


def test_published_safetensors_load_and_give_what_the_network_gives(folder: ModelsFolder) -> None:
    folder.accept_licence(RMBG)
    place(folder, RMBG, safetensors.torch.save(published_state("rmbg-1.4")))
    plain = standin("rmbg-1.4", published_state("rmbg-1.4"))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_network(RMBG, folder)(pixels), plain(pixels), atol=1e-4, rtol=1e-4)


def test_birefnets_load_in_either_precision_and_give_what_the_network_gives(folder: ModelsFolder) -> None:
    state = published_state("birefnet-lite")
    pixels = torch.from_numpy(image(96)[:, :, :64])
    with torch.inference_mode():
        expected = standin("birefnet-lite", state)(pixels)
    halves = {name: part.half() if part.is_floating_point() else part for name, part in state.items()}
    for published, tolerance in ((state, 1e-4), (halves, 0.02)):
        place(folder, LITE, safetensors.torch.save(published))
        network = load_network(LITE, folder)
        with torch.inference_mode():
            found = network(pixels)
        assert found.dtype == torch.float32
        assert (found - expected).norm() < tolerance * expected.norm()


def test_weights_of_a_birefnet_that_will_not_do_are_named_with_the_reason(folder: ModelsFolder) -> None:
    folder.accept_licence(RMBG_2)
    whole = safetensors.torch.save(published_state("birefnet-lite"))
    quantised = {"bb.norm0.weight": torch.ones(96, dtype=torch.int8)}
    for checkpoint, data, reason in (
        (LITE, whole[: len(whole) // 2], "incomplete metadata"),
        (LITE, safetensors.torch.save(published_state("rmbg-1.4")), "586 missing, such as bb"),
        (
            LITE,
            safetensors.torch.save({**published_state("birefnet-lite"), **quantised}),
            "with another type",
        ),
        (RMBG_2, whole, "168 missing, such as bb"),
    ):
        place(folder, checkpoint, data)
        with pytest.raises(WeightsUnavailable, match=reason) as caught:
            load_network(checkpoint, folder)
        message = str(caught.value)
        assert message.startswith(f"{checkpoint.name}: ")
        assert message.endswith(f"run: cutout models pull {checkpoint.name}")
        assert "\n" not in message


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
    with pytest.raises(WeightsUnavailable, match=r"does not contain the isnet network"):
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


def test_what_was_pulled_by_hand_serves_before_what_comes_by_itself(folder: ModelsFolder) -> None:
    place(folder, OPEN, b"weights")
    choice = choose(Tier.STANDARD, folder)
    assert choice.checkpoint == OPEN
    assert [reason.partition(":")[0] for reason in choice.passed_over] == ["rmbg-2.0", "birefnet-general"]
    for name in ("birefnet-general", "birefnet-lite", "birefnet-portrait", "rmbg-2.0"):
        place(folder, find(name), b"weights")
        folder.accept_licence(find(name))
        choice = choose(Tier.INDUSTRY, folder)
        assert choice.checkpoint.name == name
        assert choice.substitute == (name != "rmbg-2.0")
    assert choose(Tier.BASIC, folder).checkpoint == OPEN


@pytest.mark.parametrize(
    ("device", "accepted", "fetched"),
    [
        ("cpu", (), ["isnet-general", "u2netp"]),
        ("cuda", (), ["isnet-general", "birefnet-general", "u2netp"]),
        ("cpu", ("rmbg-2.0",), ["isnet-general", "rmbg-2.0", "u2netp"]),
        ("cuda", ("rmbg-1.4", "rmbg-2.0"), ["rmbg-1.4", "rmbg-2.0", "u2netp"]),
    ],
)
def test_a_host_fetches_what_its_device_can_bear(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    accepted: tuple[str, ...],
    fetched: list[str],
) -> None:
    monkeypatch.setattr(runners, "pick_device", lambda _: device)
    settings = load_settings(models_dir=tmp_path, accept_licences=",".join(accepted))
    pulled: list[str] = []

    def pull(checkpoint: Checkpoint) -> None:
        place(settings.models_folder, checkpoint, b"weights")
        pulled.append(checkpoint.name)

    bootstrap.pull_missing(settings, Tier, pull)
    assert pulled == fetched
    bootstrap.pull_missing(settings, Tier, pull)
    assert pulled == fetched


def test_why_a_better_checkpoint_could_not_be_fetched_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(runners, "pick_device", lambda _: "cpu")
    settings = load_settings(models_dir=tmp_path, accept_licences="rmbg-2.0")

    def pull(checkpoint: Checkpoint) -> None:
        if checkpoint.name == "rmbg-2.0":
            raise WeightsUnavailable(f"{checkpoint.name}: the hub does not know this token.")
        place(settings.models_folder, checkpoint, b"weights")

    bootstrap.pull_missing(settings, Tier, pull)
    [warning] = [record for record in caplog.records if record.name == bootstrap.__name__]
    assert warning.levelname == "WARNING"
    assert "rmbg-2.0: the hub does not know this token." in warning.getMessage()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this host has a GPU")
def test_a_gpu_that_was_asked_for_and_is_not_there_is_an_error() -> None:
    assert pick_device("auto") == pick_device("cpu") == "cpu"
    with pytest.raises(DeviceUnavailable, match="CUTOUT_DEVICE=cuda, but"):
        pick_device("cuda")
