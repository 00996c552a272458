"""The benchmarks of `gpu` go on after an interruption, and measure anew what may have changed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import engine, network, report, resume, standin
from benchmarks.resume import Steps


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PARTIAL", tmp_path)
    monkeypatch.setattr(resume, "digest", lambda: "as it is")


def never() -> Any:
    pytest.fail("was measured again")


def test_what_was_measured_is_kept() -> None:
    figures: dict[str, Any] = {"a": (1.5, 2)}
    assert Steps("some").take("one", lambda: figures) == {"a": [1.5, 2]}
    assert Steps("some").take("one", never) == {"a": [1.5, 2]}
    assert Steps("some").has("one")
    assert not Steps("others").has("one")
    assert not Steps("some", again=True).has("one")


@pytest.mark.parametrize("changed", ["code", "device", "torch"])
def test_a_change_makes_it_measure_anew(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Steps("some").take("one", lambda: 1)
    if changed == "code":
        monkeypatch.setattr(resume, "digest", lambda: "changed")
    else:
        # A name that makes the same file as before: what is in it decides.
        machine = report.machine()
        other = {**machine, changed: f"{machine[changed]}."}
        monkeypatch.setattr(report, "machine", lambda: other)
    assert Steps("some").take("one", lambda: 2) == 2


def test_the_digest_is_of_the_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(resume, "ROOT", tmp_path)
    file = tmp_path / "models" / "some.py"
    file.parent.mkdir()
    digests = set()
    for text in ("one", "two"):
        file.write_text(text)
        digests.add(resume.digest())
    file.rename(file.with_name("other.py"))
    assert resume.digest() not in digests
    assert len(digests) == 2


def test_a_step_that_failed_or_a_file_that_is_broken_is_measured_again(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        Steps("some").take("one", lambda: 1 / 0)
    assert Steps("some").take("one", lambda: 3) == 3
    (file,) = tmp_path.glob("some-*")
    file.write_text(file.read_text()[:-9])
    assert Steps("some").take("one", lambda: 4) == 4


def test_an_interrupted_benchmark_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    timed = network.timed_blocks
    stop_at: list[int] = [2]

    def counted(work: Callable[[], Any]) -> float:
        if len(measured) in stop_at:
            raise KeyboardInterrupt
        measured.append(work)
        return timed(work)

    monkeypatch.setattr(network, "timed_blocks", counted)
    monkeypatch.setattr(standin, "network", lambda _: nn.Conv2d(3, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        network.run(again=False, small=True)
    stop_at.clear()
    network.run(again=False, small=True)
    # The product of matrices and both networks, each once.
    assert len(measured) == 3
    assert "rmbg-1.4 eager/float32/1: measured before" in capsys.readouterr().out
    network.run(again=True, small=True)
    assert len(measured) == 6


def test_a_case_that_fails_is_shown_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network_of = lambda _: nn.Conv2d(3, 1, 1)
    monkeypatch.setattr(network, "seconds_a_run", lambda *_: 1 / 0)
    monkeypatch.setattr(standin, "network", network_of)
    rows, _ = network.measure_cases(Steps("some"), "rmbg-1.4", 32, network.CASES[:1], 1.0, {"float32": 1.0})
    assert rows[0][-1] == "not available: ZeroDivisionError"
    monkeypatch.setattr(network, "seconds_a_run", lambda *_: 0.5)
    rows, measured = network.measure_cases(
        Steps("some"), "rmbg-1.4", 32, network.CASES[:1], 1.0, {"float32": 1.0}
    )
    assert [figures["images_per_s"] for figures in measured.values()] == [2.0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU, they would run in full")
def test_the_group_passes_on_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, bool]]] = []
    for module in (network, engine):
        name = module.__name__
        monkeypatch.setattr(module, "run", lambda name=name, **how: asked.append((name, how)))
    for arguments in (["gpu"], ["gpu", "--again"], ["engine"]):
        monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
        command.main()
    gpu = {"again": False, "small": True}
    assert asked == [
        ("benchmarks.network", gpu),
        ("benchmarks.engine", gpu),
        ("benchmarks.network", {**gpu, "again": True}),
        ("benchmarks.engine", {**gpu, "again": True}),
        ("benchmarks.engine", {}),
    ]


@pytest.mark.slow
def test_the_engines_figures_are_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SETTLE_SECONDS", 0.1)
    engine.run(again=False, small=True)
    monkeypatch.setattr(engine, "measure", never)
    monkeypatch.setattr(standin, "engine", lambda *_: never())
    engine.run(again=False, small=True)
