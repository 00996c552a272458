"""The library that runs the networks on a GPU: torch, ONNX Runtime or TensorRT, as set or as measured on this host.

torch runs unless `CUTOUT_GPU_BACKEND` names another library, or a measurement on this GPU found that another one takes less
than `WORTH_IT` of its time. Only `cutout doctor --measure-backends` measures: TensorRT builds its engines for minutes, for
which no start should wait that was not asked to.
"""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal, get_args

import torch

from cutout.inference.backends.fastest import WORTH_IT, Measured, alone, installed_version
from cutout.inference.backends.onnx_gpu_export import GPU_GRAPH_VERSION, gpu_graph, name_of
from cutout.inference.backends.onnx_gpu_runner import Library, OnnxGpuRunner, why_not
from cutout.inference.errors import DeviceLost, DeviceUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

GpuBackend = Literal["auto", "torch", "onnxruntime", "tensorrt"]
LIBRARIES: tuple[Library, ...] = get_args(Library)
MEASURE = "cutout doctor --measure-backends"


def gpu_library(
    wanted: GpuBackend, checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int
) -> tuple[Literal["torch"] | Library, str]:
    """Return the library that runs a checkpoint on this host's GPU, and the reason for it."""
    if wanted == "torch":
        return wanted, "CUTOUT_GPU_BACKEND=torch"
    if wanted != "auto":
        return wanted, why_not(wanted) or f"CUTOUT_GPU_BACKEND={wanted}"
    measured = known(checkpoint, folder, dtype, batch)
    if measured is None:
        if why_not("onnxruntime"):
            return "torch", "no other library for GPUs is installed"
        return "torch", f"whether others are faster is not known; run: {MEASURE}"
    for library in LIBRARIES:
        if measured.library == library:
            if reason := why_not(library):
                return "torch", reason
            if library == "tensorrt" and not is_built(checkpoint, folder, dtype, batch):
                return "torch", f"TensorRT's engine is missing; run: {MEASURE}"
            return library, measured.reason
    return "torch", measured.reason


def open_other(
    wanted: GpuBackend,
    checkpoint: Checkpoint,
    folder: ModelsFolder,
    dtype: torch.dtype,
    batch_sizes: list[int],
) -> OnnxGpuRunner | None:
    """Open a checkpoint in the library that is set, or that was measured to be faster than torch; None: use torch.

    A library that was only measured, and can no longer be opened, is given up for torch, with a warning.

    Raises:
        DeviceUnavailable, WeightsUnavailable, LicenceNotAccepted, OutOfMemory: see `open_onnx`.

    """
    library, reason = gpu_library(wanted, checkpoint, folder, dtype, max(batch_sizes))
    if library == "torch":
        return None
    try:
        runner = open_onnx(library, checkpoint, folder, dtype, batch_sizes)
    except DeviceLost:
        raise
    except DeviceUnavailable as error:
        if wanted != "auto":
            raise
        log.warning("%s runs in torch, though %s was faster: %s", checkpoint.name, library, error)
        return None
    log.info("%s runs in %s (%s)", checkpoint.name, library, reason)
    return runner


def refuse_cpu(wanted: GpuBackend) -> None:
    """Raise DeviceUnavailable if a library for GPUs is set; the networks would run on the CPU."""
    if wanted in LIBRARIES:
        raise DeviceUnavailable(
            f"CUTOUT_GPU_BACKEND={wanted} needs a GPU, and the networks would run on the CPU here. Check nvidia-smi, or"
            " set CUTOUT_GPU_BACKEND=auto."
        )


def dtype_of(precision: str) -> torch.dtype:
    """Return the type of `CUTOUT_PRECISION` on a GPU."""
    dtype: torch.dtype = torch.float16 if precision == "auto" else getattr(torch, precision)
    return dtype


def open_onnx(
    library: Library,
    checkpoint: Checkpoint,
    folder: ModelsFolder,
    dtype: torch.dtype,
    batch_sizes: list[int],
) -> OnnxGpuRunner:
    """Open a checkpoint in ONNX Runtime or TensorRT on the GPU. The first time, this exports it and builds its engine.

    Raises:
        DeviceUnavailable: the library cannot run it in this precision, or on this host; nothing runs on the CPU instead.
        WeightsUnavailable, LicenceNotAccepted, OutOfMemory: see `gpu_graph` and `OnnxGpuRunner`.

    """
    require_precision(library, dtype)
    if reason := why_not(library):
        raise DeviceUnavailable(reason)
    folder.check(checkpoint)
    with alone(folder.file(checkpoint)):  # a service and its worker start together
        graph = gpu_graph(checkpoint, folder, dtype)
        engines = None
        if library == "tensorrt":
            engines = engines_folder(checkpoint, folder, dtype, max(batch_sizes))
            if not is_built(checkpoint, folder, dtype, max(batch_sizes)):
                log.warning("TensorRT builds its engine of %s; this takes minutes, once", checkpoint.name)
            engines.mkdir(parents=True, exist_ok=True)
        return OnnxGpuRunner(
            graph,
            library,
            torch.device("cuda"),
            input_size=checkpoint.input_size,
            batch_sizes=batch_sizes,
            engines=engines,
        )


def require_precision(library: Library, dtype: torch.dtype) -> None:
    """Raise DeviceUnavailable if `library` has no kernels for `dtype`, or rounds it on its own."""
    if dtype == torch.bfloat16:
        raise DeviceUnavailable(
            f"CUTOUT_GPU_BACKEND={library} has no bfloat16. Set CUTOUT_PRECISION=float16, or CUTOUT_GPU_BACKEND=torch."
        )
    if library == "tensorrt" and dtype != torch.float16:
        raise DeviceUnavailable(
            "CUTOUT_GPU_BACKEND=tensorrt runs in float16 only. Set CUTOUT_PRECISION=float16, or"
            " CUTOUT_GPU_BACKEND=torch."
        )


def known(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int) -> Measured | None:
    """Return what was measured for these weights, this GPU and these versions of the libraries, or None."""
    try:
        return Measured(**json.loads(_record(checkpoint, folder, dtype, batch).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def remember(
    checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int, measured: Measured
) -> None:
    """Write down what was measured, for `known`."""
    file = _record(checkpoint, folder, dtype, batch)
    file.write_text(json.dumps(asdict(measured), indent=2) + "\n")


def fastest_of(seconds: dict[str, float], failed: dict[str, str], batch: int) -> Measured:
    """Return the choice between libraries by the seconds of a run; `failed` has the reasons of those that do not work.

    torch is kept if no other takes less than `WORTH_IT` of its time: the others take longer to open.
    """
    best = min(seconds, key=seconds.__getitem__)
    library = best if seconds[best] < WORTH_IT * seconds["torch"] else "torch"
    rates = [f"{batch / each:.3g} photos/s in {name}" for name, each in seconds.items()]
    reasons = [f"{name} cannot be used: {reason}" for name, reason in failed.items()]
    return Measured(library, "; ".join([f"measured here: {', '.join(rates)}", *reasons]), seconds)


def engines_folder(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int) -> Path:
    """Return the folder of TensorRT's engine and timings. An engine runs only where it was built, or slower elsewhere."""
    key = _key(checkpoint, folder, dtype, batch)
    return folder.file(checkpoint).with_name(f"tensorrt-{key}")


def is_built(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int) -> bool:
    """Return whether TensorRT's engine was kept. ONNX Runtime builds it anew if it is damaged."""
    return any(engines_folder(checkpoint, folder, dtype, batch).glob("*.engine"))


def _record(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int) -> Path:
    key = _key(checkpoint, folder, dtype, batch)
    return folder.file(checkpoint).with_name(f"gpu-fastest-{key}.json")


def _key(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype, batch: int) -> str:
    """Return a name for all that a measurement or an engine depends on."""
    versions = (
        torch.__version__,
        installed_version("onnxruntime-gpu"),
        installed_version("tensorrt-cu13-libs", "tensorrt-cu13", "tensorrt"),
    )
    about = (folder.expected_sha256(checkpoint), GPU_GRAPH_VERSION, *versions, gpu(), name_of(dtype), batch)
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]


def gpu() -> list[str]:
    """Return what tells one GPU from another: its name, architecture, memory and multiprocessors; [] without one."""
    if not torch.cuda.is_available():
        return []
    about = torch.cuda.get_device_properties(0)
    return [
        about.name,
        f"{about.major}.{about.minor}",
        f"{about.total_memory}",
        f"{about.multi_processor_count}",
    ]
