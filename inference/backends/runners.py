"""One network on one device: pixels in, mask out."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from cutout.inference.backends.cuda import FixedBatch, errors_translated, wait_for
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.backends.onnx_export import export_onnx
from cutout.inference.errors import DeviceUnavailable, OutOfMemory, WeightsUnavailable
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint

Device = Literal["auto", "cuda", "cpu"]
Precision = Literal["auto", "float32", "float16", "bfloat16"]

# Of batches on a GPU that a graph is captured for; what lies between is filled up.
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
# Raised whenever a change to a network or its export makes graphs on disk stale.
GRAPH_VERSION = 2


class Runner(Protocol):
    """`backend` names library and device, as in "torch-cuda"; `device` is where tensors are expected."""

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def run(self, pixels: Tensor) -> Tensor:
        """Pixels, float32 [B,3,S,S] on `device`, → mask, float32 [B,1,S,S] on `device`, 0…1.

        On a GPU it is queued on the current stream; one thread at a time may call it.

        Raises:
            OutOfMemory: so many do not fit into the device's memory.
            DeviceLost: the device has failed.

        """
        ...

    def warm_up(self, input_size: int) -> None:
        """Do what is done at first use, so that no photo pays for it."""
        ...


class TorchRunner:
    """The network in torch, on the CPU or a CUDA GPU."""

    def __init__(
        self,
        network: nn.Module,
        device: torch.device,
        *,
        dtype: torch.dtype = torch.float32,
        batch_sizes: Sequence[int] = (),
        compiled: bool = False,
    ) -> None:
        """Batches of `batch_sizes` are captured by `warm_up`; without any, each batch is run as it comes."""
        self.device = device
        self.backend = f"torch-{device.type}"
        self._dtype = dtype
        self._batch_sizes = batch_sizes
        self._captured: dict[int, FixedBatch] = {}
        # channels_last is the order the convolutions of both devices like best.
        with errors_translated():
            network = network.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = torch.compile(network, dynamic=False) if compiled else network

    @torch.inference_mode()
    def run(self, pixels: Tensor) -> Tensor:
        with errors_translated():
            if not self._captured:
                return self._forward(pixels)
            largest = max(self._captured)
            return torch.cat([self._smallest_for(part)(part) for part in pixels.split(largest)])

    @torch.inference_mode()
    @torch.backends.cudnn.flags(enabled=True, benchmark=True)  # cuDNN tries its kernels and keeps the fastest
    def warm_up(self, input_size: int) -> None:
        pixels = torch.zeros(max(self._batch_sizes, default=1), 3, input_size, input_size, device=self.device)
        if not self._batch_sizes:
            self.run(pixels)
        before = None
        for size in sorted(self._batch_sizes, reverse=True):  # the smaller ones fit into the largest's memory
            try:
                with errors_translated():
                    before = self._captured[size] = FixedBatch(self._forward, pixels[:size], before)
            except OutOfMemory:
                if size == min(self._batch_sizes):
                    raise

    def _forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._network(pixels.to(self._dtype, memory_format=torch.channels_last))
        return logits.float().sigmoid().contiguous()

    def _smallest_for(self, pixels: Tensor) -> FixedBatch:
        return self._captured[min(size for size in self._captured if size >= len(pixels))]


class OnnxRunner:
    """The network's graph in ONNX Runtime.

    A provider that was asked for and is not active is an error: ONNX Runtime alone would carry on,
    many times slower, on the CPU.
    """

    def __init__(self, graph: Path, device: Literal["cuda", "cpu"] = "cpu") -> None:
        import onnxruntime

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise DeviceUnavailable(
                f"This ONNX Runtime has no {provider}; install onnxruntime-gpu, or set CUTOUT_DEVICE=cpu."
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        # A plan of all activations, made in the first run and allocated beside them in the second, would
        # cost IS-Net 500 MB and save no time.
        options.enable_mem_pattern = False
        self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise DeviceUnavailable(
                f"ONNX Runtime could not start its {provider}; check the driver and the CUDA libraries"
                " with nvidia-smi, or set CUTOUT_DEVICE=cpu."
            )
        give_back_freed()
        self.backend = f"onnxruntime-{device}"
        self.device = torch.device(device)
        self._batch = int(self._session.get_inputs()[0].shape[0])  # the graph takes no other

    def run(self, pixels: Tensor) -> Tensor:
        masks = [self._run_graph(part) for part in pixels.split(self._batch)]
        return torch.cat(masks).sigmoid_()

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))

    def _run_graph(self, pixels: Tensor) -> Tensor:
        """Run the graph in the tensors' own memory: on a GPU nothing goes through the host."""
        count, size = len(pixels), pixels.shape[-1]
        if count < self._batch:
            pixels = torch.cat([pixels, pixels.new_zeros(self._batch - count, *pixels.shape[1:])])
        pixels = pixels.contiguous()
        logits = torch.empty(self._batch, 1, size, size, device=self.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "pixels", pixels),
            (binding.bind_output, "logits", logits),
        ):
            bind(name, self.device.type, 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        wait_for(self.device)  # ONNX Runtime has a stream of its own
        self._session.run_with_iobinding(binding)
        return logits[:count]


def pick_device(wanted: Device) -> Literal["cuda", "cpu"]:
    """Turn the setting into a device of this host.

    Raises:
        DeviceUnavailable: a GPU was asked for and none can be used; the message says why.

    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if not torch.cuda.is_available():
        reason = "no GPU or driver was found" if torch.version.cuda else "this torch is built for the CPU"
        raise DeviceUnavailable(
            f"CUTOUT_DEVICE=cuda, but {reason}. Check nvidia-smi, or set CUTOUT_DEVICE=cpu."
        )
    return "cuda"


def device_name(device: Literal["cuda", "cpu"]) -> str:
    """Name the device for the user: what it is, and how much of it there is."""
    if device == "cpu":
        return f"cpu, {os.cpu_count()} cores"
    about = torch.cuda.get_device_properties(0)
    others = f", the first of {torch.cuda.device_count()} here" if torch.cuda.device_count() > 1 else ""
    return f"cuda, {about.name}, {about.total_memory / 2**30:.0f} GiB{others}"


def cpu_backend() -> Literal["onnxruntime", "torch"]:
    """Which library runs networks on this host's CPU: ONNX Runtime, 1.2 to 1.7 times faster, if it can be used."""
    needed = ("onnxruntime", "onnx", "onnxscript")
    return "onnxruntime" if all(map(importlib.util.find_spec, needed)) else "torch"


def open_runner(
    checkpoint: Checkpoint,
    folder: ModelsFolder,
    device: Literal["cuda", "cpu"],
    precision: Precision = "auto",
    max_batch: int = 1,
) -> Runner:
    """Load a checkpoint's weights onto a device, ready to run batches of up to `max_batch`.

    `precision` "auto" is float16 on a GPU and float32 on a CPU, where ONNX Runtime knows nothing else.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`.
        OutOfMemory: the GPU does not hold the weights.

    """
    if device == "cuda":
        dtype = torch.float16 if precision == "auto" else getattr(torch, precision)
        sizes = [size for size in BATCH_SIZES if size < max_batch] + [max_batch]
        return TorchRunner(
            load_network(checkpoint, folder), torch.device("cuda"), dtype=dtype, batch_sizes=sizes
        )
    if precision in ("auto", "float32") and cpu_backend() == "onnxruntime":
        return OnnxRunner(onnx_graph(checkpoint, folder))
    dtype = torch.float32 if precision == "auto" else getattr(torch, precision)
    return TorchRunner(load_network(checkpoint, folder), torch.device("cpu"), dtype=dtype)


def onnx_graph(checkpoint: Checkpoint, folder: ModelsFolder) -> Path:
    """Return the checkpoint's ONNX graph, written at first use (10 s; 45 s for RMBG-2.0) and kept beside the weights."""
    folder.check(checkpoint)
    digest = folder.verify(checkpoint)
    graph = folder.file(checkpoint).with_name(f"graph-v{GRAPH_VERSION}-{digest[:12]}.onnx")
    if not graph.is_file():
        network = load_network(checkpoint, folder)
        try:
            export_onnx(network, graph, checkpoint.input_size)
        except OSError as error:
            raise WeightsUnavailable(
                f"{checkpoint.name}: cannot write {graph} ({error.strerror}); free some space or set CUTOUT_MODELS_DIR"
            ) from error
    return graph
