"""GPUs that torch cannot use: why not, and that nobody waits for a CPU without knowing."""

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer

from cutout.app.cli.doctor import doctor
from cutout.inference.backends import gpu_support, runners
from cutout.inference.backends.gpu_support import covers, unused_gpu, wait_without_spinning
from cutout.inference.backends.runners import pick_device
from cutout.inference.errors import DeviceUnavailable

# As torch 2.13 for CUDA 13.0 has it.
BUILT = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12040). Please update your GPU driver."


@pytest.mark.parametrize(
    ("architectures", "capability", "expected"),
    [
        (BUILT, (7, 5), True),
        (BUILT, (8, 9), True),  # runs what was built for 8.6
        (BUILT, (12, 1), True),
        (BUILT, (7, 0), False),
        (BUILT, (6, 1), False),
        (BUILT, (11, 0), False),  # a new major version needs PTX
        ([*BUILT, "compute_90"], (11, 0), True),
        ([*BUILT, "compute_120"], (11, 0), False),
        (["sm_90a"], (9, 0), True),
        (["sm_90a"], (9, 1), False),
        (["sm_100f"], (10, 3), True),
        (["sm_100f"], (11, 0), False),
        (["compute_90a"], (10, 0), False),
        (["sm_86"], (8, 0), False),
        (["gfx90a"], (9, 0), False),
    ],
)
def test_a_build_runs_on_the_gpus_it_was_made_for(
    architectures: list[str], capability: tuple[int, int], expected: bool
) -> None:
    assert covers(architectures, capability) is expected


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A host whose torch is built for CUDA 13, with a driver that is too old for it, and no other trace of a GPU."""

    def init() -> None:
        raise RuntimeError(TOO_OLD)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu_support, "DEVICES", tmp_path)
    monkeypatch.setattr(gpu_support, "DRIVER", tmp_path / "driver")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runners.warn_once.cache_clear()
    return tmp_path


def test_a_driver_that_is_too_old_is_named(host: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DeviceUnavailable, match=r"found version 12040.*needs driver 580 or newer"):
        pick_device("cuda")
    assert pick_device("auto") == "cpu"
    assert not caplog.records, "this host has no GPU"
    (host / "nvidia0").touch()
    assert pick_device("auto") == pick_device("auto") == "cpu"
    [warning] = caplog.records
    assert warning.levelno == logging.WARNING
    assert "GPU of this host is not used" in warning.getMessage()
    assert "found version 12040" in warning.getMessage()


def test_the_doctor_tells_of_a_gpu_that_is_not_used(
    host: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUTOUT_MODELS_DIR", str(host))
    (host / "nvidia0").touch()
    with pytest.raises(typer.Exit):  # there are no weights
        doctor()
    told = " ".join(capsys.readouterr().err.split())
    assert "! the GPU of this host is not used: The NVIDIA driver" in told
    assert "found version 12040" in told


@pytest.mark.parametrize("trace", ["nvidia0", "driver", "nvidia-smi"])
def test_a_gpu_is_noticed_by_each_trace(host: Path, trace: str) -> None:
    assert unused_gpu() is None
    (host / trace).touch(0o755)
    assert unused_gpu()


@pytest.mark.parametrize(("visible", "told"), [("", False), ("-1", False), ("0", True), ("GPU-1", True)])
def test_a_gpu_that_is_hidden_on_purpose_is_not_missed(
    host: Path, monkeypatch: pytest.MonkeyPatch, visible: str, told: bool
) -> None:
    (host / "nvidia0").touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert (unused_gpu() is not None) == told


def test_a_torch_without_cuda_on_a_host_with_a_gpu_is_told(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "nvidia0").touch()
    monkeypatch.setattr(torch.version, "cuda", None)
    assert unused_gpu() == "this build of PyTorch supports only the CPU"


def test_a_card_that_is_too_old_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: BUILT)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 0))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    runners.warn_once.cache_clear()
    with pytest.raises(DeviceUnavailable, match=r"V100 has the compute capability 7\.0.* only on sm_75"):
        pick_device("cuda")
    assert pick_device("auto") == "cpu"
    assert "V100" in caplog.text
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert pick_device("auto") == pick_device("cuda") == "cuda"


@pytest.mark.parametrize(
    ("status", "accepted", "expected"), [(0, True, ["flags 4"]), (708, False, ["flags 4", "clear"])]
)
def test_threads_sleep_while_they_wait_if_cuda_lets_them(
    monkeypatch: pytest.MonkeyPatch, status: int, accepted: bool, expected: list[str]
) -> None:
    """An error must not be left behind: torch would take it for one of its next kernel."""
    calls: list[str] = []

    def set_flags(flags: int) -> int:
        calls.append(f"flags {flags}")
        return status

    def load(name: str) -> SimpleNamespace:
        assert name == "libcudart.so.13"
        return SimpleNamespace(cudaSetDeviceFlags=set_flags, cudaGetLastError=lambda: calls.append("clear"))

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr("ctypes.CDLL", load)
    assert wait_without_spinning() is accepted
    assert calls == expected


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch brings CUDA's library along")
def test_without_cudas_library_threads_wait_as_they_do_by_default() -> None:
    assert wait_without_spinning() is False
