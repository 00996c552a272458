"""`python -m benchmarks selftest`: the self-test without weights, on hosts with only the engine's libraries."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn

from benchmarks import selftest
from cutout.inference.selftest import photos
from cutout.inference.selftest.checklist import Fact
from tests.inference.selftest.subjects import RedFinder

SERVICE = "fastapi starlette uvicorn pydantic pydantic_settings sqlalchemy redis rq typer rich structlog"


@pytest.mark.slow
def test_it_runs_with_stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(photos, "edges_as_on_cpu", lambda _: Fact("left out"))
    monkeypatch.setattr(selftest, "CHECKPOINTS", ("rmbg-1.4",))
    networks: list[str] = []

    def network(checkpoint: str) -> nn.Module:
        networks.append(checkpoint)
        return RedFinder()

    monkeypatch.setattr(selftest, "network", network)
    file = tmp_path / "report.json"
    assert selftest.main(["--device", "cpu", "--report", str(file)]) == 0
    assert networks == ["rmbg-1.4"]
    assert json.loads(file.read_text())["subjects"] == [
        {"checkpoint": "rmbg-1.4", "weights": "random", "tiers": ["basic"]}
    ]


def test_it_needs_no_library_of_the_service() -> None:
    script = f"""
import sys
for name in {SERVICE.split()!r}:
    sys.modules[name] = None  # an import of it fails
import benchmarks.selftest, benchmarks.network, benchmarks.engine
print("imported")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr
