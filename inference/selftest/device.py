"""The host under test: device, driver, versions of libraries, clocks and power limit; and whether the device computes."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from cutout.inference.backends.cuda import errors_translated
from cutout.inference.backends.runners import device_name, pick_device
from cutout.inference.cores import usable_cores
from cutout.inference.selftest.checklist import Fact, Failed
from cutout.version import __version__

PACKAGES = ("torch", "triton", "onnxruntime", "onnxruntime-gpu", "MNN", "numpy", "pillow")
# What nvidia-smi says about a GPU: clocks in MHz, power in W, temperature in °C.
ASKED = "name,driver_version,pstate,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit,power.draw,temperature.gpu"
SIDE = 512
# Variables that change how torch and CUDA work. No others: they may name the host or its user.
VARIABLES = (
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TORCH_CUDNN_SDPA_DEPRIORITIZED",
)
CPUINFO = Path("/proc/cpuinfo")


def describe(device: Literal["cuda", "cpu"]) -> dict[str, Any]:
    """Return what the results depend on. Nothing here identifies the host or its user."""
    about: dict[str, Any] = {
        "device": device,
        "name": _processor(),
        "cores": usable_cores(),
        "platform": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cutout": __version__,
        "packages": _versions(),
        "cuda_of_torch": torch.version.cuda,
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    with suppress(RuntimeError, AssertionError):  # without a usable driver, the check of the device says why
        if device == "cuda":
            about |= _gpu()
    return about


def gpu_state() -> dict[str, str]:
    """Return driver, clocks, power and temperature of the GPU as nvidia-smi gives them; empty if it does not."""
    program = shutil.which("nvidia-smi")
    if program is None or not torch.cuda.is_available():
        return {}
    command = [program, f"--query-gpu={ASKED}", "--format=csv,noheader,nounits"]
    # By its own number, because nvidia-smi does not follow CUDA_VISIBLE_DEVICES; a part of a GPU (MIG) has another.
    number = getattr(torch.cuda.get_device_properties(0), "uuid", None)
    for chosen in ([f"--id=GPU-{number}"] if number else [], []):
        try:
            told = subprocess.run(
                command + chosen, capture_output=True, text=True, timeout=10, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            continue
        values = [value.strip() for value in told.partition("\n")[0].split(",")]
        return dict(zip(ASKED.split(","), values, strict=False))
    return {}


def computes(device: Literal["cuda", "cpu"]) -> Fact:
    """Check that the device can be used and multiplies matrices as the CPU does.

    Raises:
        DeviceUnavailable: there is no such device, or torch cannot use it; the message says why.

    """
    pick_device(device)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(SIDE, SIDE, generator=generator) for _ in range(2))
    if device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    with errors_translated():
        found = (a.to(device) @ b.to(device)).cpu()
    error = float((found - a @ b).abs().max())
    if not error < 1e-2:
        raise Failed(
            f"a product of matrices is off by {error:.3g}",
            "The device computes wrongly: check it with its maker's tools (dcgmi diag, memtest), and its power and cooling.",
        )
    return Fact(device_name(device), {"matmul_error": error})


def _gpu() -> dict[str, Any]:
    about = torch.cuda.get_device_properties(0)
    return {
        "name": about.name,
        "capability": f"{about.major}.{about.minor}",
        "memory_gib": round(about.total_memory / 2**30, 1),
        "multiprocessors": about.multi_processor_count,
        "gpus": torch.cuda.device_count(),
        "cudnn": torch.backends.cudnn.version(),
        "bfloat16": torch.cuda.is_bf16_supported(including_emulation=False),
        "nvidia_smi": gpu_state(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _processor() -> str:
    with suppress(OSError):
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
