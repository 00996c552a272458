"""One network on one device: pixels in, mask out."""

import importlib.util
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from inference.errors import DeviceUnavailable, WeightsUnavailable
from inference.export import export_onnx
from inference.folder import ModelsFolder
from inference.memory import give_back_freed
from inference.weights import load_network
from models.catalog import Checkpoint

Device = Literal["auto", "cuda", "cpu"]

# Raised whenever a change to a network or its export makes graphs on disk stale.
GRAPH_VERSION = 2


class Runner(Protocol):
    """`backend` names library and device, as in "torch-cuda"; `device` is where tensors are expected."""

    @property
    def backend(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    def run(self, pixels: Tensor) -> Tensor:
        """Pixels, float32 [B,3,S,S] on `device`, → mask, float32 [B,1,S,S] on `device`, 0…1."""
        ...


class TorchRunner:
    """The network in torch, on the CPU or a CUDA GPU."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.device = device
        self.backend = f"torch-{device.type}"
        # channels_last is the order the convolutions of both devices like best.
        self._network = network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def run(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self._network(pixels.contiguous(memory_format=torch.channels_last))
        return logits.sigmoid().contiguous()


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
        self.device = torch.device("cpu")  # arrays go in and out through the host's memory

    def run(self, pixels: Tensor) -> Tensor:
        # The graph takes one photo: on a CPU a batch saves nothing.
        logits = [self._session.run(None, {"pixels": one.numpy()})[0] for one in pixels.split(1)]
        return torch.from_numpy(np.concatenate(logits)).sigmoid_()


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


def cpu_backend() -> Literal["onnxruntime", "torch"]:
    """Which library runs networks on this host's CPU: ONNX Runtime, 1.2 to 1.7 times faster, if it can be used."""
    needed = ("onnxruntime", "onnx", "onnxscript")
    return "onnxruntime" if all(map(importlib.util.find_spec, needed)) else "torch"


def open_runner(checkpoint: Checkpoint, folder: ModelsFolder, device: Literal["cuda", "cpu"]) -> Runner:
    """Load a checkpoint's weights onto a device, ready to run.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`.

    """
    if device == "cuda":
        return TorchRunner(load_network(checkpoint, folder), torch.device("cuda"))
    if cpu_backend() == "torch":
        return TorchRunner(load_network(checkpoint, folder), torch.device("cpu"))
    return OnnxRunner(onnx_graph(checkpoint, folder))


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
