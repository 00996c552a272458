"""Own weights: added whole or not at all, only if they fit their network, and checkpoints like others from then on."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.selftest import Checklist, Plan, installed
from cutout.inference.selftest.run import _whole_files
from cutout.inference.tiers import Tier, choose
from cutout.inference.weights import own
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import CHECKPOINTS, Checkpoint, UnknownCheckpoint, find
from tests.parity import published_state, standin

OPEN = find("isnet-general")


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path / "models")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every network a small one, so that its files are small."""
    monkeypatch.setattr("cutout.inference.weights.loader.build_network", lambda _: nn.Conv2d(3, 4, 3))


def weights(file: Path, seed: int = 0, changes: dict[str, Tensor] | None = None) -> Path:
    """Write weights of the small network, with some tensors changed."""
    generator = torch.Generator().manual_seed(seed)
    state = {"weight": torch.randn(4, 3, 3, 3, generator=generator), "bias": torch.zeros(4)}
    safetensors.torch.save_file(state | (changes or {}), file)
    return file


def names_in(folder: ModelsFolder) -> set[str]:
    return {str(path.relative_to(folder.own)) for path in folder.own.rglob("*")}


WHOLE = {"shop-v3", "shop-v3/model.safetensors", "shop-v3/origin.json"}


@pytest.mark.slow
def test_a_published_network_under_another_name_gives_the_same_and_needs_all_its_tensors(
    folder: ModelsFolder, tmp_path: Path
) -> None:
    state = {
        name: part.half() if part.is_floating_point() else part
        for name, part in published_state("rmbg-1.4").items()
    }
    file = tmp_path / "mine.safetensors"
    safetensors.torch.save_file(state, file)
    checkpoint = own.add(folder, file, "shop-v3", "isnet-general")
    plain = standin(
        "rmbg-1.4", {name: part.float() if part.is_floating_point() else part for name, part in state.items()}
    )
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(
            load_network(checkpoint, folder)(pixels), plain(pixels), atol=1e-4, rtol=1e-4
        )
    with pytest.raises(
        WeightsUnavailable, match=r"does not hold the network of birefnet-lite .* missing, such as bb"
    ):
        own.add(folder, file, "shop-v4", "birefnet-lite")
    assert list(own.own_checkpoints(folder)) == ["shop-v3"]


@pytest.mark.usefixtures("small")
def test_it_is_as_the_checkpoint_that_it_is_like_but_for_its_weights(
    folder: ModelsFolder, tmp_path: Path
) -> None:
    file = weights(tmp_path / "my.safetensors")
    added = own.add(folder, file, "shop-v3", "birefnet-hr")
    like = find("birefnet-hr")
    assert (
        replace(
            added,
            name=like.name,
            like=None,
            sources=like.sources,
            licence=like.licence,
            sha256=like.sha256,
            description=like.description,
        )
        == like
    )
    assert added.sha256 == sha256(file)
    assert own.find(folder, "shop-v3") == added
    assert own.find(folder, "birefnet-hr") == like
    assert names_in(folder) == WHOLE
    folder.check(added)
    assert folder.verify(added) == added.sha256
    record = folder.record(added)
    assert record is not None
    assert (record.like, record.source) == ("birefnet-hr", str(file))


@pytest.mark.usefixtures("small")
def test_a_file_that_was_changed_is_noticed_and_the_command_named(
    folder: ModelsFolder, tmp_path: Path
) -> None:
    added = own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    weights(folder.file(added), seed=1)
    for _ in range(2):
        with pytest.raises(
            WeightsUnavailable, match="cutout models add FILE --like isnet-general --name shop-v3 --replace"
        ):
            load_network(added, folder)
    folder.file(added).unlink()
    with pytest.raises(WeightsUnavailable, match="shop-v3: weights missing; run: cutout models add"):
        load_network(added, folder)
    # The same file puts it right again.
    assert own.add(folder, tmp_path / "my.safetensors", "shop-v3", "isnet-general", replacing=True) == added
    load_network(added, folder)


SHAPE = torch.zeros(4, 3, 5, 5)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"weight": SHAPE},
            r"of 2 tensors 1 with another shape, such as weight \(4×3×5×5 instead of 4×3×3×3\)",
        ),
        ({"bias": torch.zeros(())}, r"bias \(a number instead of 4\)"),
        (
            {f"head.{n}": torch.zeros(1) for n in range(9)},
            r"of 2 tensors 9 unknown, such as head\.0, head\.1, head\.2\)",
        ),
        ({"bias": torch.zeros(4, dtype=torch.int8)}, "1 with another type, such as bias"),
        (
            {"weight": torch.zeros(1), "x": SHAPE},
            "1 unknown, such as x; 1 with another shape, such as weight",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_nothing_is_kept(
    folder: ModelsFolder, tmp_path: Path, changes: dict[str, Tensor], told: str
) -> None:
    file = weights(tmp_path / "my.safetensors", changes=changes)
    with pytest.raises(WeightsUnavailable, match=told) as caught:
        own.add(folder, file, "shop-v3", "birefnet-lite")
    assert "does not hold the network of birefnet-lite" in str(caught.value)
    assert names_in(folder) == set()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("data", [b"", b"not safetensors at all", None])
def test_files_that_hold_no_weights_are_refused(
    folder: ModelsFolder, tmp_path: Path, data: bytes | None
) -> None:
    file = weights(tmp_path / "my.safetensors")
    file.write_bytes(file.read_bytes()[:-1] if data is None else data)
    with pytest.raises(WeightsUnavailable, match="not a whole safetensors file"):
        own.add(folder, file, "shop-v3", "isnet-general")
    for absent in (tmp_path, tmp_path / "none"):
        with pytest.raises(WeightsUnavailable, match="is not a file"):
            own.add(folder, absent, "shop-v3", "isnet-general")
    assert names_in(folder) == set()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (name, "cannot be the name")
        for name in ("", "Shop", "-a", ".a", "a/b", "..", "a b", "ä", "a\n", "a" * 42)
    ]
    + [("rmbg-2.0", "is a checkpoint of the catalogue; choose another --name")],
)
def test_names_that_cannot_be_used(folder: ModelsFolder, tmp_path: Path, name: str, told: str) -> None:
    file = weights(tmp_path / "my.safetensors")
    with pytest.raises(WeightsUnavailable, match=told):
        own.add(folder, file, name, "isnet-general")
    assert not folder.path.exists()
    with pytest.raises((UnknownCheckpoint, WeightsUnavailable)):
        own.remove(folder, name)
    assert file.exists()
    own.add(folder, file, "a" * 41, "isnet-general")


def test_no_checkpoint_of_the_catalogue_is_stored_where_own_weights_are(folder: ModelsFolder) -> None:
    assert folder.own.name not in CHECKPOINTS
    assert all(own.NAME.fullmatch(name) for name in CHECKPOINTS)  # or a tier's setting could not name it


@pytest.mark.usefixtures("small")
def test_other_weights_need_another_name_or_to_replace(folder: ModelsFolder, tmp_path: Path) -> None:
    first, second = weights(tmp_path / "1.safetensors"), weights(tmp_path / "2.safetensors", seed=1)
    added = own.add(folder, first, "shop-v3", "isnet-general")
    made_from_it = folder.file(added).with_name("graph-v1.onnx")
    made_from_it.write_bytes(b"a graph")
    assert own.add(folder, first, "shop-v3", "isnet-general") == added  # nothing to do
    assert made_from_it.exists()
    for file, like in ((second, "isnet-general"), (first, "rmbg-1.4")):
        with pytest.raises(
            WeightsUnavailable, match=r"shop-v3 exists with other weights .*another --name, .*--replace"
        ):
            own.add(folder, file, "shop-v3", like)
        assert own.find(folder, "shop-v3") == added
        assert folder.verify(added) == sha256(first)
    replaced = own.add(folder, second, "shop-v3", "rmbg-1.4", replacing=True)
    assert own.find(folder, "shop-v3") == replaced
    assert (replaced.like, folder.verify(replaced)) == ("rmbg-1.4", sha256(second))
    assert names_in(folder) == WHOLE


@pytest.mark.usefixtures("small")
def test_a_full_disk_leaves_what_was_there(
    folder: ModelsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = weights(tmp_path / "1.safetensors"), weights(tmp_path / "2.safetensors", seed=1)
    added = own.add(folder, first, "shop-v3", "isnet-general")

    def half(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:99])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", half)
    for name in ("shop-v3", "shop-v4"):
        with pytest.raises(WeightsUnavailable, match=r"No space left on device.*CUTOUT_MODELS_DIR"):
            own.add(folder, second, name, "isnet-general", replacing=True)
    assert names_in(folder) == WHOLE
    assert folder.verify(added) == sha256(first)


@pytest.mark.usefixtures("small")
def test_what_cannot_be_put_in_place_leaves_what_was_there(
    folder: ModelsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = weights(tmp_path / "1.safetensors"), weights(tmp_path / "2.safetensors", seed=1)
    added = own.add(folder, first, "shop-v3", "isnet-general")
    rename = Path.rename

    def fail_once(source: Path, target: Path) -> Path:
        if target == folder.own / "shop-v3":
            monkeypatch.setattr(Path, "rename", rename)
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(WeightsUnavailable, match="Input/output error"):
        own.add(folder, second, "shop-v3", "isnet-general", replacing=True)
    assert names_in(folder) == WHOLE
    assert folder.verify(added) == sha256(first)


@pytest.mark.usefixtures("small")
def test_removed_weights_are_gone(folder: ModelsFolder, tmp_path: Path) -> None:
    own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    with pytest.raises(WeightsUnavailable, match="isnet-general is not one of your own"):
        own.remove(folder, "isnet-general")
    own.remove(folder, "shop-v3")
    assert names_in(folder) == set()
    with pytest.raises(UnknownCheckpoint):
        own.remove(folder, "shop-v3")


@pytest.mark.usefixtures("small")
def test_a_name_that_is_meant_is_found(folder: ModelsFolder, tmp_path: Path) -> None:
    own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    with pytest.raises(
        UnknownCheckpoint, match=r"'shopv3'\. Did you mean shop-v3\? Choose one of: rmbg-1\.4, .*, shop-v3"
    ):
        own.find(folder, "shopv3")
    with pytest.raises(UnknownCheckpoint, match="Did you mean birefnet-lite"):
        own.add(folder, tmp_path / "my.safetensors", "shop-v4", "birefnet-light")


@pytest.mark.usefixtures("small")
def test_a_name_that_an_update_takes_is_not_served_in_place_of_the_other(
    folder: ModelsFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    added = own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    newcomer = replace(OPEN, name="shop-v3")
    monkeypatch.setitem(CHECKPOINTS, "shop-v3", newcomer)
    assert folder.file(newcomer) != folder.file(added)
    with pytest.raises(
        WeightsUnavailable, match="add yours under another name, then run: cutout models remove shop-v3"
    ):
        own.find(folder, "shop-v3")
    own.remove(folder, "shop-v3")
    assert own.find(folder, "shop-v3") == newcomer


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "record", ["", "{}", '{"source": "", "sha256": "", "fetched_at": "", "like": "gone"}', "[1]"]
)
def test_a_damaged_record_hides_only_its_own_checkpoint(
    folder: ModelsFolder, tmp_path: Path, record: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("shop-v3", "shop-v4"):
        own.add(folder, weights(tmp_path / "my.safetensors"), name, "isnet-general")
    (folder.own / "shop-v3/origin.json").write_text(record)
    assert list(own.own_checkpoints(folder)) == ["shop-v4"]
    assert "add the weights of shop-v3 again" in caplog.text
    with pytest.raises(WeightsUnavailable, match="--replace"):
        own.add(folder, tmp_path / "my.safetensors", "shop-v3", "isnet-general")
    own.add(folder, tmp_path / "my.safetensors", "shop-v3", "isnet-general", replacing=True)
    assert list(own.own_checkpoints(folder)) == ["shop-v3", "shop-v4"]


def test_records_of_before_are_read(folder: ModelsFolder) -> None:
    folder.home(OPEN).mkdir(parents=True)
    (folder.home(OPEN) / "origin.json").write_text(
        json.dumps({"source": "npm", "sha256": "0" * 64, "fetched_at": "2026-11-01"})
    )
    record = folder.record(OPEN)
    assert record is not None
    assert (record.source, record.like) == ("npm", None)


@pytest.mark.usefixtures("small")
def test_a_tiers_own_order_replaces_the_usual_one(folder: ModelsFolder, tmp_path: Path) -> None:
    def ready(checkpoint: Checkpoint) -> None:
        folder.home(checkpoint).mkdir(parents=True, exist_ok=True)
        folder.file(checkpoint).write_bytes(b"weights")

    added = own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    order = [find("birefnet-hr"), added, OPEN]
    ready(OPEN)
    ready(find("birefnet-lite"))  # would serve in the usual order
    choice = choose(Tier.STANDARD, folder, {Tier.STANDARD: order})
    assert (choice.checkpoint, choice.wanted, choice.substitute) == (added, "birefnet-hr", True)
    assert choice.passed_over == ("birefnet-hr: weights not downloaded; run: cutout models pull birefnet-hr",)
    assert choose(Tier.INDUSTRY, folder, {Tier.STANDARD: order}).checkpoint.name == "birefnet-lite"
    ready(find("birefnet-hr"))
    choice = choose(Tier.STANDARD, folder, {Tier.STANDARD: order})
    assert (choice.checkpoint.name, choice.substitute, choice.passed_over) == ("birefnet-hr", False, ())
    with pytest.raises(WeightsUnavailable, match=r"No checkpoint for tier basic is ready: rmbg-1\.4: "):
        choose(Tier.BASIC, folder, {Tier.BASIC: [find("rmbg-1.4")]})


@pytest.mark.usefixtures("small")
def test_the_self_test_tests_what_serves_and_every_file(folder: ModelsFolder, tmp_path: Path) -> None:
    serves = own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v3", "isnet-general")
    other = own.add(folder, weights(tmp_path / "my.safetensors"), "shop-v4", "isnet-general")
    subjects, _ = installed(folder, "cpu", {Tier.BASIC: [serves]})
    assert [(subject.checkpoint, subject.choices[0].tier) for subject in subjects] == [(serves, Tier.BASIC)]
    folder.file(other).write_bytes(b"changed")
    checklist = Checklist()
    assert _whole_files(Plan("cpu", subjects, folder), checklist) == {"shop-v3"}
    assert [(finding.subject, finding.outcome.value) for finding in checklist.findings] == [
        ("shop-v3", "passed"),
        ("shop-v4", "failed"),
    ]
    assert (
        "cutout models add FILE --like isnet-general --name shop-v4 --replace" in checklist.findings[1].advice
    )
