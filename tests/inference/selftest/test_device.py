"""What the self-test says about a host and its device, with a GPU that is pretended."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cutout.inference.selftest import device
from cutout.inference.selftest.checklist import Failed

SMI = """#!/bin/sh
case "$*" in
*--id=GPU-{known}*) echo "NVIDIA H100, 580.65, P0, 1980, 2619, 1980, 2619, 700.00, 310.5, 41" ;;
*--id=*) exit 6 ;;
*) echo "first, 580.65" ; echo "second, 580.65" ;;
esac
"""


@pytest.mark.parametrize(
    ("known", "name", "limit"), [("11-22", "NVIDIA H100", "700.00"), ("33-44", "first", None)]
)
def test_nvidia_smi_is_asked_about_the_gpu_in_use(
    known: str, name: str, limit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(SMI.format(known=known))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="11-22"))
    state = device.gpu_state()
    assert (state["name"], state["driver_version"]) == (name, "580.65")
    assert state.get("power.limit") == limit


def test_without_nvidia_smi_the_report_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.gpu_state() == {}
    assert device.describe("cpu")["packages"]["torch"] == torch.__version__


def test_a_device_that_computes_wrongly_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.computes("cpu").figures["matmul_error"] == 0
    product = torch.Tensor.__matmul__
    calls = iter([0.1, 0.0])
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: product(a, b) + next(calls))
    with pytest.raises(Failed, match=r"a product of matrices is off by 0\.1"):
        device.computes("cpu")
