"""The benchmark that gates a release fails if a tier exceeds its limit."""

from pathlib import Path

import pytest
import torch

from benchmarks import report, standin, targets
from cutout.inference.tiers import SOLD, Tier
from tests.fakes import fake_engine

pytestmark = pytest.mark.slow


def test_a_missed_ceiling_ends_in_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(targets, "engine_from", lambda _: fake_engine())
    monkeypatch.setattr(targets, "MEGAPIXELS", 0.05)
    monkeypatch.setattr(targets, "PHOTOS", 1)
    # RMBG-2.0 itself takes half a minute to build and run.
    monkeypatch.setattr(standin, "network", lambda _: torch.nn.Conv2d(3, 1, 1))
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    monkeypatch.setattr(report, "PAGE", tmp_path / "performance.md")
    targets.run()
    page = (tmp_path / "performance.md").read_text()
    assert page.count("| holds |") == 2 * len(SOLD)
    assert "isnet-general, substitute for rmbg-2.0" in page
    needed = [line for line in page.splitlines() if line.startswith("| rmbg-2.0 |")]
    assert [line.split(" | ")[2:4] for line in needed] == [
        ["standard", "1"],
        ["professional", "1"],
        ["industry", "2"],
    ]
    assert all("would hold" in line for line in needed)

    monkeypatch.setitem(targets.CEILING_SECONDS, Tier.STANDARD, 0.0)
    with pytest.raises(SystemExit, match=r"Missed: standard by engine, standard by http\."):
        targets.run()
