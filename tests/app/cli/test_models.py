"""`cutout models add | remove | list | path | pull` with own weights, and `cutout doctor` with an order of one's own."""

from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from cutout.inference.weights import own
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import CHECKPOINTS
from tests.app.cli.test_accounts import Run, cutout
from tests.inference.selftest.test_patch_order import trained

pytestmark = pytest.mark.slow


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelsFolder:
    """Return an empty models folder, for networks that are small."""
    monkeypatch.setenv("CUTOUT_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("CUTOUT_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.setattr("cutout.inference.weights.loader.build_network", lambda _: nn.Conv2d(3, 4, 3))
    return ModelsFolder(tmp_path / "models")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "my.safetensors"
    safetensors.torch.save_file(nn.Conv2d(3, 4, 3).state_dict(), file)
    return file


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: cutout(monkeypatch, capsys, *arguments)


def test_own_weights_come_are_listed_and_go(
    models: ModelsFolder, file: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ("models", "add", str(file), "--like", "isnet-general", "--name", "shop-v3")
    code, out, err = run(*add)
    target = models.own / "shop-v3/model.safetensors"
    assert (code, out) == (0, "")
    assert f"shop-v3 is a checkpoint now, like isnet-general: {target}" in err
    assert sha256(file) in err
    assert "CUTOUT_TIER_STANDARD=shop-v3" in err

    [line] = [line for line in run("models", "list")[1].splitlines() if line.startswith("shop-v3")]
    assert "your own weights, like isnet-general" in line
    assert line.rstrip().endswith("ready")
    assert run("models", "path", "shop-v3")[1] == f"{target}\n"
    code, _, err = run("models", "pull", "shop-v3")
    assert code == 1
    assert "is your own and cannot be downloaded; run: cutout models add FILE --like isnet-general" in err

    target.write_bytes(b"changed")
    assert "damaged: add it again" in run("models", "list")[1]
    code, _, err = run(*add)
    assert code == 1
    assert "shop-v3 exists with other weights" in err
    assert run(*add, "--replace")[0] == 0
    assert target.read_bytes() == file.read_bytes()

    monkeypatch.setenv("CUTOUT_TIER_BASIC", "rmbg-1.4,shop-v3")
    code, _, err = run("models", "remove", "shop-v3")
    assert code == 1
    assert "shop-v3 is in use: remove it from CUTOUT_TIER_BASIC first." in err
    monkeypatch.delenv("CUTOUT_TIER_BASIC")
    assert run("models", "remove", "shop-v3")[0] == 0
    assert list(models.own.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"like": "isnet-genral"}, "There is no checkpoint 'isnet-genral'. Did you mean isnet-general?"),
        ({"name": "Shop"}, "'Shop' cannot be the name of a checkpoint; a name has 1 to 41"),
        ({"file": "/nowhere/my.safetensors"}, "/nowhere/my.safetensors is not a file"),
    ],
)
def test_what_cannot_be_added_is_said_in_one_line(
    models: ModelsFolder, file: Path, run: Run, changes: dict[str, str], told: str
) -> None:
    given = {"file": str(file), "like": "isnet-general", "name": "shop-v3"} | changes
    code, out, err = run("models", "add", given["file"], "--like", given["like"], "--name", given["name"])
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1
    assert not models.path.exists()


def test_weights_of_the_other_patch_order_are_noticed(
    models: ModelsFolder, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the layers that tell the order have numbers here; the whole network would be 170 MB."""
    state = {
        name: part for name, part in trained("c hg wg").state_dict().items() if part.device.type == "cpu"
    }
    file = tmp_path / "lite.safetensors"
    blocks = {
        name: torch.zeros(part.shape, dtype=part.dtype)
        for name, part in trained("c hg wg").state_dict().items()
        if name.startswith(("decoder.ipt_blk2.", "decoder.ipt_blk3."))
    }
    safetensors.torch.save_file(blocks | {name: part.contiguous() for name, part in state.items()}, file)
    monkeypatch.setattr("cutout.inference.weights.loader._require_same", lambda *_: None)
    add = ("models", "add", str(file), "--name", "shop-v3", "--like")
    code, _, err = run(*add, "birefnet-lite")
    assert code == 0
    assert "the weights were trained with the other order of patches than 'wg hg c'" in err
    assert 'Add them again with --replace and --patch-order "c hg wg".' in err
    code, _, err = run(*add, "birefnet-lite", "--replace", "--patch-order", "c hg wg", "--input-size", "512")
    assert code == 0
    assert "note:" not in err
    added = own.find(models, "shop-v3")
    assert (added.patch_order, added.input_size) == ("c hg wg", 512)


def test_the_doctor_names_own_weights_and_what_they_stand_in_for(
    models: ModelsFolder, file: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("models", "add", str(file), "--like", "isnet-general", "--name", "shop-v3")
    for tier in ("BASIC", "PROFESSIONAL", "INDUSTRY"):
        monkeypatch.setenv(f"CUTOUT_TIER_{tier}", "shop-v3")
    monkeypatch.setenv("CUTOUT_TIER_STANDARD", "birefnet-hr,shop-v3")
    code, _, err = run("doctor")
    assert code == 0
    assert f"✓ shop-v3: ready, your own weights, like isnet-general, from {file}; runs in" in err
    assert "✓ basic: shop-v3 (your own weights), recipe mask" in err
    assert (
        "! standard: shop-v3 (your own weights) is a substitute for birefnet-hr, recipe clean"
        " (birefnet-hr: weights not downloaded; run: cutout models pull birefnet-hr)"
    ) in err
    monkeypatch.setenv("CUTOUT_TIER_STANDARD", "birefnet-hr,shopv3")
    code, _, err = run("doctor")
    assert code == 1
    assert "CUTOUT_TIER_STANDARD: There is no checkpoint 'shopv3'. Did you mean shop-v3?" in err


def test_every_checkpoint_of_the_catalogue_is_still_listed(models: ModelsFolder, run: Run) -> None:
    listed = [line.split()[0] for line in run("models", "list")[1].splitlines()[1:]]
    assert listed == list(CHECKPOINTS)


def test_pull_without_names_takes_what_the_tiers_name(
    models: ModelsFolder, file: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("models", "add", str(file), "--like", "isnet-general", "--name", "shop-v3")
    pulled: list[str] = []
    monkeypatch.setattr(
        "cutout.app.cli.models.pull_one", lambda _, checkpoint, *__: pulled.append(checkpoint.name)
    )
    monkeypatch.setenv("CUTOUT_TIER_STANDARD", "shop-v3,rmbg-2.0,birefnet-lite")
    assert run("models", "pull")[0] == 0
    assert pulled == [
        "isnet-general",
        "u2netp",
        "birefnet-lite",
    ]  # nobody has accepted the licence of rmbg-2.0
