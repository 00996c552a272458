"""`cutout doctor --deep`: it shows what the self-test finds, writes the report and exits with 1 if anything failed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from torch import Tensor

from cutout.app.cli.console import CommandError
from cutout.app.cli.doctor import doctor
from cutout.inference import selftest
from cutout.inference.selftest import photos
from cutout.inference.selftest.checklist import Fact
from cutout.inference.tiers import Tier
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import find
from tests.inference.selftest.subjects import small_subject


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a models folder with a file for isnet-general, and make it the current folder."""
    models = tmp_path / "models"
    file = ModelsFolder(models).file(find("isnet-general"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not those weights")
    monkeypatch.setenv("CUTOUT_MODELS_DIR", str(models))
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.chdir(tmp_path)
    # They take seconds, and are tested elsewhere.
    monkeypatch.setattr(photos, "edges_as_on_cpu", lambda _: Fact("left out"))
    return tmp_path


@pytest.fixture
def subject(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], Tensor]], None]:
    """Return a function that puts a small network with a fault in place of the installed ones."""

    def put(fault: Callable[[Tensor], Tensor]) -> None:
        monkeypatch.setattr(
            selftest,
            "installed",
            lambda *_: ([small_subject(fault, (Tier.BASIC,))], {Tier.INDUSTRY: OSError("none")}),
        )

    return put


Put = Callable[[Callable[[Tensor], Tensor]], None]


def test_a_sound_host_is_reported(
    folder: Path, subject: Put, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subject(lambda mask: mask)
    monkeypatch.setattr(ModelsFolder, "verify", lambda *_: "0" * 64)
    doctor("cpu", deep=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "✓ masks (isnet-general, float32): as on the CPU in float32" in shown.err
    assert "· tier industry: not tested: none" in shown.err
    assert "Nothing failed: " in shown.err
    (file,) = folder.glob("cutout-selftest-*.json")
    assert f"Report, to keep or to send in: {file.resolve()}" in shown.err
    assert json.loads(file.read_text())["ok"]

    doctor("cpu", deep=True, report="-")
    assert json.loads(capsys.readouterr().out)["ok"]
    doctor("cpu", deep=True, report=str(folder / "none" / "report.json"))
    assert "The report cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (torch.zeros_like, "the mask is 0 everywhere"),
        (lambda mask: mask * torch.nan, "100% of the mask is not finite"),
    ],
)
def test_a_runner_that_computes_wrongly_fails(
    fault: Callable[[Tensor], Tensor],
    told: str,
    subject: Put,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    subject(fault)
    monkeypatch.setattr(ModelsFolder, "verify", lambda *_: "0" * 64)
    with pytest.raises(typer.Exit) as ended:
        doctor("cpu", deep=True, report="report.json")
    assert ended.value.exit_code == 1
    shown = capsys.readouterr().err
    assert f"✗ masks (isnet-general, float32): {told}" in shown
    assert "Set CUTOUT_PRECISION=float32" in shown
    assert not json.loads(Path("report.json").read_text())["ok"]


def test_a_spoilt_file_of_weights_fails(subject: Put, capsys: pytest.CaptureFixture[str]) -> None:
    subject(lambda mask: mask)
    with pytest.raises(typer.Exit):
        doctor("cpu", deep=True, report="report.json")
    shown = capsys.readouterr().err
    assert "✗ weights (isnet-general): " in shown
    assert "is damaged (SHA-256 differs)" in shown
    assert "      Run: cutout models pull isnet-general" in shown
    assert "masks (isnet-general" not in shown


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_cannot_be_used_is_in_the_report(subject: Put) -> None:
    subject(lambda mask: mask)
    with pytest.raises(typer.Exit):
        doctor("cuda", deep=True, report="report.json")
    report = json.loads(Path("report.json").read_text())
    assert [finding["check"] for finding in report["findings"]] == ["device"]
    assert "supports only the CPU" in report["findings"][0]["text"] or "GPU" in report["findings"][0]["text"]


def test_options_that_make_no_sense_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="add --deep"):
        doctor("cpu", report="report.json")
    monkeypatch.setenv("CUTOUT_HF_INFERENCE_TOKEN", "hf_x")
    with pytest.raises(CommandError, match="nothing to test here"):
        doctor("huggingface", deep=True)


def test_weights_that_a_start_copies_count(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ModelsFolder(folder / "image").file(find("isnet-general"))
    file.parent.mkdir(parents=True)
    file.write_bytes(b"others")
    monkeypatch.setenv("CUTOUT_MODELS_DIR", str(folder / "empty"))
    monkeypatch.setenv("CUTOUT_MODELS_FROM", str(folder / "image"))

    def told(code: int) -> str:
        if code:
            with pytest.raises(typer.Exit):
                doctor("cpu")
        else:
            doctor("cpu")
        return capsys.readouterr().err

    assert "No checkpoint for tier basic is ready" in told(1)  # it is damaged, and would not be copied
    monkeypatch.setattr("cutout.app.bootstrap.sha256", lambda _: find("isnet-general").sha256)
    shown = told(0)
    assert f"isnet-general: not copied yet from {file}; run: cutout models pull isnet-general" in shown
    for tier in Tier:
        assert f"! {tier.value}: isnet-general (copied at the first start) is a substitute" in shown
    assert not (folder / "empty").exists()
    monkeypatch.setenv("CUTOUT_STRICT_MODELS", "1")
    assert "✗ basic: isnet-general" in told(1)
