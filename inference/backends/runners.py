"""Runners: each executes one network on one device, from input pixels to mask."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from cutout.inference.backends import fastest, gpu_backends
from cutout.inference.backends.cuda import FixedBatch, errors_translated
from cutout.inference.backends.gpu_backends import GpuBackend
from cutout.inference.backends.gpu_support import gpu_problem, unused_gpu, wait_without_spinning
from cutout.inference.backends.mnn_export import why_not
from cutout.inference.backends.onnx_export import onnx_graph
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.overflow import like_a_photo, overflows
from cutout.inference.backends.trial import trial_pixels
from cutout.inference.cores import network_threads, usable_cores
from cutout.inference.errors import DeviceLost, DeviceUnavailable, OutOfMemory
from cutout.inference.tiers import Choice
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models import gpu_kernels
from cutout.models.catalog import Checkpoint
from cutout.models.optimise import fit_to_gpu

log = logging.getLogger(__name__)

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

# Batch sizes for which a CUDA graph is captured; a batch of a size in between runs in the next larger graph.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
# Triton's kernels are not used if their masks differ more than this from torch's on the mean. Half precision itself
# causes much smaller differences.
KERNELS_DIFFER = 2 / 255


class Runner(Protocol):
    """A network that is loaded on one device.

    `backend` names the library and the device, as in "torch-cuda"; input tensors must be on `device`.
    """

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def run(self, pixels: Tensor) -> Tensor:
        """Return the masks, float32 [B,1,S,S] of 0…1, of input pixels, float32 [B,3,S,S], both on `device`.

        On a GPU the work is queued on the current stream. Only one thread at a time may call this.

        Raises:
            OutOfMemory: the batch does not fit into the device's memory.
            DeviceLost: the device has failed.

        """
        ...

    def warm_up(self, input_size: int) -> None:
        """Do all one-time work of the first run now, so that no photo has to wait for it."""
        ...


@dataclass(frozen=True)
class Serving:
    """A tier that is ready to serve: the checkpoint chosen for it, and the runner that has it loaded."""

    choice: Choice
    runner: Runner


class TorchRunner:
    """Runs a network in torch, on the CPU or a CUDA GPU."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        batch_sizes: Sequence[int] = (),
        wider: torch.dtype | None = None,
        values: tuple[float, float] = (-0.5, 0.5),
    ) -> None:
        """Prepare the network. `warm_up` captures a graph for each of `batch_sizes`; without any, none is used.

        If the network overflows in float16 on inputs of the range `values`, `wider` is taken instead of it.
        """
        self.device = device
        self.notes: list[str] = []  # what `warm_up` found to be other than it should be
        self._words = ["torch", device.type]
        self._wider = wider
        self._values = values
        self._dtype = dtype
        self._batch_sizes = batch_sizes
        self._captured: dict[int, FixedBatch] = {}
        if device.type == "cuda":
            wait_without_spinning()
            network = fit_to_gpu(network)
            # float32 must be float32: by default convolutions round their inputs to TF32's 10 bits. Sums of float16
            # products must not be rounded to float16 on the way.
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        # channels_last is the fastest memory format for convolutions on both CPU and GPU.
        with errors_translated():
            network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network

    @property
    def backend(self) -> str:
        """Such as "torch-cuda"; "-bfloat16" is added where float16 overflows, "-eager" where graphs are missing."""
        return "-".join(self._words)

    @torch.inference_mode()
    def run(self, pixels: Tensor) -> Tensor:
        if self.device.type == "cpu":
            torch.set_num_threads(
                network_threads()
            )  # of this thread; by itself torch reads no container's quota
        with errors_translated():
            if not self._captured:
                return self._forward(pixels)
            largest = max(self._captured)
            return torch.cat([self._smallest_for(part)(part) for part in pixels.split(largest)])

    @property
    def captured(self) -> tuple[int, ...]:
        """The batch sizes that have a graph after `warm_up`, in ascending order."""
        return tuple(sorted(self._captured))

    @torch.inference_mode()
    def run_eagerly(self, pixels: Tensor) -> Tensor:
        """Return the masks as `run` does, without graphs: one batch of any size, kernel by kernel."""
        with errors_translated():
            return self._forward(pixels)

    # benchmark: cuDNN times its kernels and keeps the fastest.
    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)
    def warm_up(self, input_size: int) -> None:
        self._check_precision(like_a_photo(input_size, self._values, self.device))
        self._check_kernels(trial_pixels(input_size).to(self.device, self._dtype))
        pixels = torch.zeros(max(self._batch_sizes, default=1), 3, input_size, input_size, device=self.device)
        if not self._batch_sizes:
            self.run(pixels)
        before = None
        # The largest comes first, because the smaller graphs fit into its memory.
        for size in sorted(self._batch_sizes, reverse=True):
            try:
                with errors_translated():
                    before = self._captured[size] = FixedBatch(self._forward, pixels[:size], before)
            except OutOfMemory:
                if size == min(self._batch_sizes):
                    raise
            except DeviceLost:
                raise
            except Exception:
                note = f"No CUDA graph for batches of {size} on this GPU; they start slower"
                log.warning("%s", note, exc_info=True)
                self._record(note, "eager")

    def _check_precision(self, photo: Tensor) -> None:
        """Take the wider type if the network overflows in float16; the kernels are checked after that.

        Raises:
            DeviceUnavailable: no type that may be taken is wide enough.

        """
        if self._dtype != torch.float16:
            return
        with errors_translated(), gpu_kernels.only(on=False):
            if not overflows(self._forward, photo):
                return
            if self._wider is not None:
                self._dtype = self._wider
                self._network = self._network.to(self._wider)
            if self._wider is None or overflows(self._forward, photo):
                raise DeviceUnavailable(
                    "This network's numbers are too large for float16 on this device. Set CUTOUT_PRECISION=bfloat16 if"
                    " the GPU has it, or float32."
                )
        name = str(self._wider).removeprefix("torch.")
        note = f"This network's numbers are too large for float16; {name} is used instead"
        log.warning("%s", note)
        self._record(note, name)

    def _record(self, note: str, word: str) -> None:
        """Add to `notes` and to `backend`."""
        self.notes.append(note)
        if word not in self._words:
            self._words.append(word)

    def _check_kernels(self, pixels: Tensor) -> None:
        """Switch the Triton kernels off if they do not run on this host or their masks differ."""
        if not gpu_kernels.usable(pixels):
            return
        try:
            with errors_translated():
                masks = self._forward(pixels)
                with gpu_kernels.only(on=False):
                    difference = float((masks - self._forward(pixels)).abs().mean())
        except (OutOfMemory, DeviceLost):
            raise
        except Exception:
            log.warning(
                "Triton's kernels do not run on this host; without them, RMBG-2.0 takes several times as long",
                exc_info=True,
            )
        else:
            if difference < KERNELS_DIFFER:
                return
            log.warning(
                "Triton's kernels give other masks than torch on this GPU (by %.4f) and are not used",
                difference,
            )
        gpu_kernels.switch_off()

    def _forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._network(pixels.to(self._dtype, memory_format=torch.channels_last)).float()
        # An infinite logit is an overflow; its sigmoid would look like a mask.
        masks = torch.where(logits.isfinite(), logits.sigmoid(), torch.nan)
        return masks.contiguous()

    def _smallest_for(self, pixels: Tensor) -> FixedBatch:
        return self._captured[min(size for size in self._captured if size >= len(pixels))]


def pick_device(wanted: Device) -> Literal["cuda", "cpu"]:
    """Return the device of this host that the setting stands for.

    Raises:
        DeviceUnavailable: a GPU was requested and none can be used; the message says why.

    """
    if wanted == "cpu":
        return "cpu"
    problem = gpu_problem()
    if problem is None:
        return "cuda"
    if wanted == "cuda":
        raise DeviceUnavailable(
            f"CUTOUT_DEVICE=cuda, but {problem}. Check nvidia-smi, or set CUTOUT_DEVICE=cpu."
        )
    if unused := unused_gpu():
        warn_once(f"The GPU of this host is not used: {unused}. Check nvidia-smi, or set CUTOUT_DEVICE=cpu.")
    return "cpu"


def device_name(device: Literal["cuda", "cpu"]) -> str:
    """Return a description of the device for the user: its name, and its core count or memory."""
    if device == "cpu":
        return f"cpu, {usable_cores()} cores"
    about = torch.cuda.get_device_properties(0)
    others = f", the first of {torch.cuda.device_count()} GPUs" if torch.cuda.device_count() > 1 else ""
    return f"cuda, {about.name}, {about.total_memory / 2**30:.0f} GiB{others}"


def cpu_library(
    checkpoint: Checkpoint, folder: ModelsFolder, precision: Precision = "auto"
) -> tuple[str, str]:
    """Return the library that runs a checkpoint on this host's CPU, or will do so, and the reason for it.

    ONNX Runtime runs networks 1.2 to 1.7 times faster than torch. For IS-Net, MNN can be faster still, or slower,
    depending on the processor: the first start measures it. Each is used if all its packages are installed.
    """
    if precision not in ("auto", "float32"):
        return "torch", f"no other library has {precision} on a CPU"
    if not all(map(importlib.util.find_spec, ("onnxruntime", "onnx", "onnxscript"))):
        return "torch", "ONNX Runtime is faster; run: pip install 'cutout-server[cpu]'"
    if checkpoint.network == "birefnet":
        return "onnxruntime", "MNN cannot convert this network"
    if checkpoint.network == "u2net":
        return "onnxruntime", "MNN is no faster with this network"
    if reason := why_not():
        return "onnxruntime", reason
    known = fastest.known(checkpoint, folder)
    return (
        (known.library, known.reason)
        if known
        else (fastest.UNKNOWN, "the first start finds out which is faster")
    )


def open_runner(
    checkpoint: Checkpoint,
    folder: ModelsFolder,
    device: Literal["cuda", "cpu"],
    precision: Precision = "auto",
    max_batch: int = 1,
    gpu_backend: GpuBackend = "auto",
) -> Runner:
    """Load a checkpoint's weights onto a device, ready to run batches of up to `max_batch`.

    `precision` "auto" is float16 on a GPU and float32 on a CPU, where it is the only one for which there are libraries
    faster than torch: see `cpu_library`. For `gpu_backend` see `gpu_backends`.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`.
        OutOfMemory: the weights do not fit into the GPU's memory.
        DeviceUnavailable: the GPU has no such precision, or `gpu_backend` cannot be used on this host.

    """
    if device == "cuda":
        dtype = gpu_backends.dtype_of(precision)
        if dtype == torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            raise DeviceUnavailable("This GPU has no bfloat16. Set CUTOUT_PRECISION=float16 or float32.")
        sizes = [size for size in BATCH_SIZES if size < max_batch] + [max_batch]
        if other := gpu_backends.open_other(gpu_backend, checkpoint, folder, dtype, sizes):
            return other
        has_wider = precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False)
        return TorchRunner(
            load_network(checkpoint, folder),
            torch.device("cuda"),
            dtype=dtype,
            batch_sizes=sizes,
            wider=torch.bfloat16 if has_wider else None,
            values=checkpoint.input_range,
        )
    gpu_backends.refuse_cpu(gpu_backend)
    library, reason = cpu_library(checkpoint, folder, precision)
    if library in ("mnn", fastest.UNKNOWN):
        return fastest.open_fastest(checkpoint, folder)
    if library == "onnxruntime":
        if checkpoint.network == "isnet" and why_not():
            warn_once(f"{checkpoint.name} may run slower than it could: {reason}")
        return OnnxRunner(onnx_graph(checkpoint, folder))
    dtype = torch.float32 if precision == "auto" else getattr(torch, precision)
    return TorchRunner(load_network(checkpoint, folder), torch.device("cpu"), dtype=dtype)


@cache
def warn_once(message: str) -> None:
    """Log a warning, but each text only once: engines may be opened again and again."""
    log.warning("%s", message)
