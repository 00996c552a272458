"""The self-test on the CPU, whole, with small networks: it passes what is right and catches what is wrong."""

import getpass
import itertools
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cutout.inference.backends.runners import Runner, Serving
from cutout.inference.errors import DeviceLost, OutOfMemory
from cutout.inference.selftest import Checklist, Finding, Outcome, Plan, Subject, photos, run, write_report
from cutout.inference.selftest.__main__ import main
from cutout.inference.selftest.checklist import Fact, Failed, Skipped
from cutout.inference.tiers import Choice, Tier
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import find
from tests.fakes import FakeRunner
from tests.inference.selftest.subjects import (
    CPU,
    SMALL,
    Faulty,
    RedFinder,
    small_subject,
    take_a_smaller_photo,
)


def findings(subjects: list[Subject], folder: ModelsFolder | None = None) -> dict[str, Finding]:
    """Run the test without the part that needs no network. Return each check's finding."""
    checklist = Checklist()
    run(Plan("cpu", subjects, folder), checklist)
    for finding in checklist.findings:
        assert bool(finding.advice) == (finding.outcome in (Outcome.FAILED, Outcome.WARNED)), finding
    return {finding.check: finding for finding in checklist.findings}


@pytest.fixture(autouse=True)
def _without_edges(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Leave the edges out: they take a second, and one test has them."""
    if not request.node.get_closest_marker("slow"):
        monkeypatch.setattr(photos, "edges_as_on_cpu", lambda _: Fact("left out"))


@pytest.fixture
def _smaller_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    take_a_smaller_photo(monkeypatch)


@pytest.mark.slow
@pytest.mark.usefixtures("_smaller_photo")
def test_a_sound_network_passes_everything_and_is_reported(tmp_path: Path) -> None:
    shown: list[str] = []
    checklist = Checklist(shown.append)
    plan = Plan("cpu", [small_subject()])
    run(plan, checklist)
    outcomes = {finding.check: finding.outcome for finding in checklist.findings}
    assert not checklist.failed
    assert len(shown) == len(checklist.findings)
    passed = {name for name, outcome in outcomes.items() if outcome is Outcome.PASSED}
    assert passed == {
        *("device", "patches", "edges", "on the CPU", "opening", "masks", "graphs", "speed"),
        *("tier basic", "tier professional", "under load"),
    }
    assert set(outcomes.values()) == {Outcome.PASSED, Outcome.SKIPPED}

    text = write_report(plan, checklist, tmp_path / "report.json").read_text()
    report = json.loads(text)
    assert report["ok"]
    assert report["host"]["packages"]["torch"]
    assert report["subjects"] == [
        {"checkpoint": "isnet-general", "weights": "random", "tiers": ["basic", "professional"]}
    ]
    figures = {finding["check"]: finding["figures"] for finding in report["findings"]}
    assert figures["graphs"]["sizes"] == [1, 4]
    assert figures["graphs"]["copies_meanwhile"] > 0
    assert figures["speed"]["photos_per_s_by_batch"]["4"] > 0
    assert figures["under load"]["stage_seconds"]["network"] > 0
    for private in (socket.gethostname(), str(Path.home()), str(tmp_path), f'"{getpass.getuser()}"'):
        assert private not in text


FAULTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "zeros": (torch.zeros_like, "the mask is 0 everywhere"),
    "NaN": (lambda mask: mask.where(mask < 0.5, torch.nan), "not finite"),
    "infinite": (lambda mask: mask.where(mask < 0.5, torch.inf), "not finite"),
    "logits": (lambda mask: 9 * mask - 3, "instead of 0 to 1"),
    "mirrored": (lambda mask: mask.flip(3), "masks differ from those of the CPU"),
    "slightly off": (lambda mask: mask * 0.9, "masks differ from those of the CPU"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_runner_that_computes_wrongly_is_caught(name: str) -> None:
    fault, text = FAULTS[name]
    found = findings([small_subject(fault, tiers=())])
    assert found["masks"].outcome is Outcome.FAILED
    assert text in found["masks"].text
    assert "CUTOUT_PRECISION=float32" in found["masks"].advice


def test_a_batch_whose_photos_change_places_is_caught() -> None:
    found = findings([small_subject(lambda mask: mask.roll(1, 0), tiers=())])
    assert found["masks"].outcome is Outcome.PASSED  # of one photo alone
    assert found["graphs"].outcome is Outcome.FAILED
    assert "CUTOUT_BATCH_SIZE=1" in found["graphs"].advice


@pytest.mark.usefixtures("_smaller_photo")
def test_masks_that_change_under_load_are_caught() -> None:
    runs = itertools.count()
    runner = Faulty(RedFinder(), lambda mask: mask.flip(2) if next(runs) == 2 else mask)
    with photos.engine_of({Tier.BASIC: Serving(Choice(Tier.BASIC, SMALL, ()), runner)}) as engine:
        with pytest.raises(Failed, match="differently while others were in work") as caught:
            photos.equal_under_load(engine, Tier.BASIC, "float32")
        assert caught.value.figures["different_results"] == 2
        assert photos.equal_under_load(engine, Tier.BASIC, "float32").figures["different_results"] == 1


class Shifted(photos.StoredMask):
    """The stored mask, a fiftieth of the photo too far to the right."""

    def run(self, pixels: Tensor) -> Tensor:
        return super().run(pixels).roll(pixels.shape[-1] // 50, 3)


STORED, SHIFTED, DISC, NOTHING = photos.StoredMask(CPU), Shifted(CPU), FakeRunner(), FakeRunner(radius=-1)


@pytest.mark.parametrize(
    ("checkpoint", "runner", "outcome", "told"),
    [
        ("isnet-general", STORED, Outcome.PASSED, "the stored alpha"),
        ("isnet-general", SHIFTED, Outcome.FAILED, "is another than the stored one"),
        ("birefnet-lite", SHIFTED, Outcome.PASSED, "no exact comparison"),
        ("birefnet-lite", DISC, Outcome.FAILED, "does not find the cup"),
        ("isnet-general", NOTHING, Outcome.FAILED, "does not find the cup in the photo (overlap 0.00"),
    ],
)
def test_trained_weights_must_find_the_subject_of_the_photo(
    checkpoint: str, runner: Runner, outcome: Outcome, told: str
) -> None:
    chosen = replace(find(checkpoint), input_size=1024)
    with photos.engine_of({Tier.BASIC: Serving(Choice(Tier.BASIC, chosen, ()), runner)}) as engine:
        checklist = Checklist()
        checklist.take("tier", "", lambda: photos.tier_serves(engine, Tier.BASIC, "float32", trained=True))
    (finding,) = checklist.findings
    assert told in finding.text
    assert finding.outcome is outcome


@pytest.mark.parametrize(
    ("runner", "outcome", "told"),
    [
        (photos.StoredMask(torch.device("cpu")), Outcome.PASSED, "no exact comparison"),
        (DISC, Outcome.FAILED, "does not find the cup"),
    ],
)
def test_a_preview_is_compared_at_its_own_size(runner: Runner, outcome: Outcome, told: str) -> None:
    serving = Serving(Choice(Tier.PREVIEW, find("isnet-general"), ()), runner)
    with photos.engine_of({Tier.PREVIEW: serving}) as engine:
        checklist = Checklist()
        checklist.take("tier", "", lambda: photos.tier_serves(engine, Tier.PREVIEW, "float32", trained=True))
    (finding,) = checklist.findings
    assert told in finding.text
    assert finding.outcome is outcome


def test_weights_without_a_mask_even_on_the_cpu_are_caught() -> None:
    subject = small_subject(tiers=())
    network = subject.network()
    for parameter in network.parameters():
        parameter.data.fill_(torch.nan)
    found = findings([Subject(SMALL, (), trained=True, network=lambda: network, open=subject.open)])
    assert found["on the CPU"].outcome is Outcome.FAILED
    assert "cutout models pull isnet-general" in found["on the CPU"].advice
    assert "opening" not in found


def test_a_spoilt_file_of_weights_is_caught_and_not_run(tmp_path: Path) -> None:
    folder, checkpoint = ModelsFolder(tmp_path), find("rmbg-2.0")
    file = folder.file(checkpoint)
    file.parent.mkdir()
    file.write_bytes(b"weights")
    folder.install(checkpoint, file, sha256(file), "a test")
    subject = small_subject(tiers=())
    network = Subject(checkpoint, (), trained=True, network=subject.network, open=subject.open)
    with file.open("r+b") as stream:
        stream.write(b"W")
    found = findings([network], folder)
    assert found["weights"].outcome is Outcome.FAILED
    assert found["weights"].advice == "Run: cutout models pull rmbg-2.0"
    assert "on the CPU" not in found

    checklist = Checklist()
    run(plan := Plan("cpu", [], folder), checklist)
    assert str(file) in next(found.text for found in checklist.findings if found.check == "weights")
    report = write_report(plan, checklist, tmp_path / "report.json").read_text()
    assert "MODELS/rmbg-2.0/model.safetensors is damaged" in report
    assert str(tmp_path) not in report

    (tmp_path / checkpoint.name / "origin.json").unlink()
    file.write_bytes(b"placed by hand")
    assert findings([], folder)["weights"].outcome is Outcome.WARNED


def raising(error: Exception) -> Callable[[], Fact]:
    def check() -> Fact:
        raise error

    return check


def test_one_check_does_not_end_the_others() -> None:
    checklist = Checklist()
    for error in (
        Failed("wrong", "do this"),
        Skipped("nothing"),
        ValueError("a bug"),
        OutOfMemory("Full. Free it."),
    ):
        checklist.take("one", "", raising(error))
    assert checklist.take("other", "", lambda: Fact("fine"))
    assert [finding.outcome.value for finding in checklist.findings] == [
        *("failed", "skipped", "failed", "failed", "passed"),
    ]
    assert checklist.findings[0].advice == "do this"
    assert "ValueError: a bug" in checklist.findings[2].text
    assert (checklist.findings[3].text, checklist.findings[3].advice) == ("Full", "Free it.")


def test_after_the_device_has_failed_nothing_more_is_tried() -> None:
    checklist = Checklist()
    checklist.take("one", "", raising(DeviceLost("The GPU has failed. Restart Cutout.")))
    assert not checklist.take("other", "", lambda: pytest.fail("was tried"))
    assert checklist.findings[1].outcome is Outcome.SKIPPED


def test_after_its_time_only_what_is_necessary_is_done() -> None:
    now = itertools.count(step=100)
    checklist = Checklist(seconds=250, clock=lambda: float(next(now)))
    taken = [checklist.take("one", "", lambda: Fact("done"), optional=True) for _ in range(3)]
    assert taken == [True, False, False]
    assert checklist.take("one", "", lambda: Fact("done"))


@pytest.mark.usefixtures("_smaller_photo")
def test_it_runs_as_a_module(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    arguments = ["--device", "cpu", "--report", str(file)]
    assert main(arguments, lambda device: [small_subject(tiers=(Tier.BASIC,))]) == 0
    assert json.loads(file.read_text())["ok"]
    assert main(arguments, lambda device: [small_subject(torch.zeros_like, tiers=())]) == 1
    assert "FAILED  masks (isnet-general, float32): the mask is 0 everywhere" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert main(["--device", "cuda"], lambda device: []) == 1
