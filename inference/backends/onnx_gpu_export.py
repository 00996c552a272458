"""Export of a network as an ONNX graph for a GPU: for ONNX Runtime's CUDA provider and for TensorRT."""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn

from cutout.inference.backends.onnx_export import GRAPH_VERSION, whole_graph, write_graph
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models import onnx_attention
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

# Increment this whenever a change to this export makes the graphs on disk stale.
GPU_GRAPH_VERSION = 1
# Up to opset 19, `GridSample` is the one of opset 16, the only one that ONNX Runtime has a CUDA kernel for.
OPSET = 18
MOST = 64  # photos in a batch; the largest CUTOUT_BATCH_SIZE


def gpu_graph(checkpoint: Checkpoint, folder: ModelsFolder, dtype: torch.dtype) -> Path:
    """Return the path of the checkpoint's graph for a GPU in `dtype`, exporting it next to the weights on first use.

    The export takes half a minute, or seven minutes and 4 GB of memory for RMBG-2.0.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`; or the graph cannot be written.

    """
    folder.check(checkpoint)
    name = f"gpu-v{GRAPH_VERSION}.{GPU_GRAPH_VERSION}-{folder.verify(checkpoint)[:12]}-{name_of(dtype)}.onnx"
    graph = folder.file(checkpoint).with_name(name)

    def export() -> None:
        log.warning(
            "%s is exported to ONNX for the GPU; this takes up to seven minutes, once", checkpoint.name
        )
        export_for_gpu(load_network(checkpoint, folder), graph, checkpoint.input_size, dtype)

    return whole_graph(checkpoint, graph, export)


def name_of(dtype: torch.dtype) -> str:
    """Return a type's name without the module: "float16"."""
    return str(dtype).removeprefix("torch.")


def export_for_gpu(network: nn.Module, file: Path, input_size: int, dtype: torch.dtype) -> None:
    """Write `network`, converted to `dtype`, to `file`, atomically; the batch size of the graph is free.

    Pixels [B,3,S,S] and logits [B,1,S,S] of the graph are float32 whatever `dtype` is; S = `input_size`. The exporter's
    optimiser is used: it removes operators on sequences, which TensorRT does not know.
    """
    # Two photos, because an example of one would make the batch size a constant.
    pixels = torch.zeros(2, 3, input_size, input_size)
    batch = torch.export.Dim("batch", min=1, max=MOST)
    with onnx_attention.spelled_out():
        write_graph(
            InPrecision(network.to(dtype), dtype).eval(),
            pixels,
            file,
            optimize=True,
            opset_version=OPSET,
            dynamic_shapes=({0: batch},),
        )


class InPrecision(nn.Module):
    """A network in another precision, with float32 pixels and logits: [B,3,H,W] → [B,1,H,W]."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels.to(self.dtype))
        return logits.float()
