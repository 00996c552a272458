"""Whether torch can use this host's NVIDIA GPU, and if not, why; and how threads wait for it."""

import ctypes
import os
import re
import shutil
from pathlib import Path

import torch

# The oldest driver for each major version of CUDA (NVIDIA's release notes of the toolkit).
OLDEST_DRIVER = {"12": 525, "13": 580}
# Traces of a driver on the host, or of a GPU in a container.
DEVICES, DRIVER = Path("/dev"), Path("/proc/driver/nvidia")
BLOCKING_SYNC = 4  # cudaDeviceScheduleBlockingSync of driver_types.h
ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)(a|f|)", re.ASCII)


def gpu_problem() -> str | None:
    """Return why no GPU can be used, as a clause for an error message, or None if the first GPU can be used."""
    if not torch.cuda.is_available():
        return _why_none()
    architectures = torch.cuda.get_arch_list()
    if not architectures:
        return None
    capability = torch.cuda.get_device_capability(0)
    if covers(architectures, capability):
        return None
    return (
        f"{torch.cuda.get_device_name(0)} has the compute capability {capability[0]}.{capability[1]}, and this build of"
        f" PyTorch (CUDA {torch.version.cuda}) runs only on {', '.join(architectures)}"
    )


def unused_gpu() -> str | None:
    """Return why this host's GPU is not used, as `gpu_problem` does; None if it is, is hidden, or is not there."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1"):
        return None
    return gpu_problem() if torch.cuda.is_available() or _has_gpu() else None


def covers(architectures: list[str], capability: tuple[int, int]) -> bool:
    """Return whether a build for these architectures, such as "sm_86" or "compute_90", runs on a GPU.

    Binaries (sm) run on GPUs of the same major version and the same or a higher minor one; PTX (compute) is compiled
    by the driver for any newer GPU. Those with the suffix "a" run on exactly that version, those with "f" on its family.
    """
    for name in architectures:
        parts = ARCHITECTURE.fullmatch(name)
        if parts is None:
            continue
        built = int(parts[2]), int(parts[3])
        if built == capability:
            return True
        same_family = built[0] == capability[0] and built < capability
        if (parts[1] == "sm" or parts[4] == "f") and parts[4] != "a" and same_family:
            return True
        if parts[1] == "compute" and not parts[4] and built < capability:
            return True
    return False


def wait_without_spinning() -> bool:
    """Let threads sleep while they wait for the GPU; return whether CUDA accepted that.

    By default a wait keeps a core busy, and the threads of photos need the cores for decoding. Torch has no setting for
    it; users who set it this way report up to 30 % less CPU time, and 0.5 % more time in all.
    """
    version = (torch.version.cuda or "").partition(".")[0]
    try:
        # The library is loaded already, so the same one is returned that torch uses.
        runtime = ctypes.CDLL(f"libcudart.so.{version}")
        refused = runtime.cudaSetDeviceFlags(BLOCKING_SYNC) != 0
        if refused:
            runtime.cudaGetLastError()  # or torch would find this error after its next kernel
    except (OSError, AttributeError):  # another name or another system
        return False
    return not refused


def _why_none() -> str:
    if not torch.version.cuda:
        return "this build of PyTorch supports only the CPU"
    try:
        torch.cuda.init()
    except RuntimeError as error:  # for example, that the driver is too old, and which it is
        reason = str(error).splitlines()[0].rstrip(".")
        oldest = OLDEST_DRIVER.get(torch.version.cuda.partition(".")[0])
        if oldest and "driver" in reason:
            reason += f"; PyTorch for CUDA {torch.version.cuda} needs driver {oldest} or newer"
        return reason
    return "no GPU or driver was found"


def _has_gpu() -> bool:
    """Return whether this host seems to have an NVIDIA GPU, whether or not torch can use it."""
    return any(DEVICES.glob("nvidia[0-9]*")) or DRIVER.exists() or shutil.which("nvidia-smi") is not None
