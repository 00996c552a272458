"""A worker for each card: found by `nvidia-smi`, given to the workers, and one engine less beside them."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from cutout.app.bootstrap import api_engine_of
from cutout.app.cli.serve import serve
from cutout.app.config.base import SettingsError
from cutout.app.config.settings import Settings, load
from cutout.app.embedded import supervisor
from cutout.app.embedded.cards import cards_of, visible_cards
from cutout.app.embedded.supervisor import EmbeddedProcesses
from cutout.inference.backends import runners
from tests.fakes import wait_until

TWO = """\
GPU 0: NVIDIA L4 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000000)
GPU 1: NVIDIA L4 (UUID: GPU-22222222-aaaa-bbbb-cccc-000000000000)
"""
SLICED = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-aaaa-bbbb-cccc-000000000000)
  MIG 3g.40gb     Device  0: (UUID: MIG-33333333-aaaa-bbbb-cccc-000000000000)
  MIG 3g.40gb     Device  1: (UUID: MIG-44444444-aaaa-bbbb-cccc-000000000000)
GPU 1: NVIDIA H100 80GB HBM3 (UUID: GPU-22222222-aaaa-bbbb-cccc-000000000000)
"""


@pytest.mark.parametrize(
    ("listing", "expected"),
    [
        (TWO, ["GPU-1", "GPU-2"]),
        (SLICED, ["MIG-3", "MIG-4", "GPU-2"]),
        ("No devices found.\n", []),
        ("", []),
    ],
)
def test_cards_are_read_from_the_listing(listing: str, expected: list[str]) -> None:
    assert [card[:5] for card in cards_of(listing)] == expected
    assert all(len(card) == 40 for card in cards_of(listing))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host on which torch can use two GPUs, and the folder of its commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    put_nvidia_smi(folder, f"cat <<'END'\n{TWO}END")
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(runners, "pick_device", lambda wanted: "cpu" if wanted == "cpu" else "cuda")
    return folder


def put_nvidia_smi(folder: Path, script: str) -> None:
    (folder / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] || exit 2\n{script}\n')
    (folder / "nvidia-smi").chmod(0o755)


def settings_of(**values: object) -> Settings:
    return load(**{"auth": "off", **values})


def test_cards_are_those_of_the_host_or_those_that_its_owner_chose(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [card[:5] for card in visible_cards()] == ["GPU-1", "GPU-2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1, MIG-5")
    assert visible_cards() == ["1", "MIG-5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_cards() == []


@pytest.mark.parametrize("script", ["exit 9", "echo 'NVIDIA-SMI has failed'; exit 0", "kill $$", None])
def test_without_an_answer_there_are_no_cards(host: Path, script: str | None) -> None:
    (host / "nvidia-smi").unlink()
    if script:
        put_nvidia_smi(host, script)
    assert visible_cards() == []


@pytest.mark.parametrize(
    ("workers", "device", "expected"),
    [
        ("auto", "auto", ["GPU-1", "GPU-2"]),
        ("auto", "cpu", ["any"]),
        ("2", "auto", ["any", "any"]),
        (None, "auto", ["any"]),
        ("0", "auto", []),
    ],
)
def test_the_command_starts_a_worker_for_each_card(
    host: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: str | None,
    device: str,
    expected: list[str],
) -> None:
    """As far as the service itself, which would start them."""
    planned: list[str] = []

    class Planned(EmbeddedProcesses):
        def __init__(self, settings: Settings, cards: Sequence[str]) -> None:
            super().__init__(settings, cards=cards)
            planned.extend(card[:5] if card else "any" for card in self._cards)
            raise KeyboardInterrupt

    monkeypatch.setenv("CUTOUT_AUTH", "off")
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(supervisor, "EmbeddedProcesses", Planned)
    with pytest.raises(KeyboardInterrupt):
        serve(device=device, workers=workers)
    assert planned == expected


@pytest.mark.parametrize("workers", ["many", "-1", "65", "1.5"])
def test_other_numbers_of_workers_are_refused(workers: str) -> None:
    with pytest.raises(SettingsError, match="CUTOUT_WORKERS"):
        settings_of(workers=workers)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "queue"),
        ({"workers": "auto"}, "queue"),
        ({"workers": 0}, "local"),
        ({"redis_url": "redis://elsewhere"}, "local"),  # its workers are on other hosts
        ({"redis_url": "redis://elsewhere", "workers": 2}, "queue"),
        ({"device": "cpu"}, "local"),
        ({"api_engine": "local"}, "local"),
        ({"api_engine": "queue", "device": "cpu"}, "queue"),
    ],
)
def test_beside_a_worker_on_a_gpu_the_service_loads_no_engine(
    host: Path, values: dict[str, object], expected: str
) -> None:
    assert api_engine_of(settings_of(**values)) == expected


@pytest.mark.parametrize(("cards", "expected"), [(["GPU-1", "MIG-2"], ["GPU-1", "MIG-2"]), ([], ["any"])])
def test_each_worker_sees_its_own_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cards: list[str], expected: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = tmp_path / "seen"
    seen.mkdir()
    code = (
        "import os, pathlib, sys;"
        f"pathlib.Path({str(seen)!r}, os.environ.get('CUDA_VISIBLE_DEVICES', 'any')).touch();"
        "sys.stdin.read()"
    )
    embedded = EmbeddedProcesses(settings_of(data_dir=tmp_path), (sys.executable, "-c", code), cards)

    async def run() -> None:
        async with embedded.workers(10):
            await asyncio.to_thread(wait_until, lambda: len(list(seen.iterdir())) == len(expected))

    asyncio.run(run())
    assert sorted(file.name for file in seen.iterdir()) == expected
