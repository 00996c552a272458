"""Export of a network as an ONNX graph, for ONNX Runtime and for the converters of other libraries."""

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import Checkpoint
from cutout.models.optimise import FusedWindowAttention

log = logging.getLogger(__name__)

# Increment this whenever a change to a network or its export makes the graphs on disk stale.
GRAPH_VERSION = 3
ATTENTION_OPSET = 23  # the first with the operator Attention


def onnx_graph(checkpoint: Checkpoint, folder: ModelsFolder) -> Path:
    """Return the path of the checkpoint's ONNX graph, exporting it next to the weights on first use.

    The export takes 10 s, or 50 s for RMBG-2.0.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`; or the graph cannot be written.

    """
    folder.check(checkpoint)
    digest = folder.verify(checkpoint)
    graph = folder.file(checkpoint).with_name(f"graph-v{GRAPH_VERSION}-{digest[:12]}.onnx")
    return whole_graph(
        checkpoint,
        graph,
        lambda: export_onnx(load_network(checkpoint, folder), graph, checkpoint.input_size),
    )


def whole_graph(checkpoint: Checkpoint, graph: Path, export: Callable[[], None]) -> Path:
    """Return a checkpoint's graph, which `export` writes if it is missing or is not what was written.

    A graph with damaged weights opens without an error and gives wrong masks. So its SHA-256 is kept beside it.

    Raises:
        WeightsUnavailable: the graph cannot be written.

    """
    checksum = checksum_of(graph)
    if graph.is_file() and checksum.is_file():
        if checksum.read_text().strip() == sha256(graph):
            return graph
        log.warning("%s is damaged and is exported again", graph)
    try:
        export()
        checksum.write_text(sha256(graph) + "\n")
    except OSError as error:
        raise WeightsUnavailable(cannot_write(checkpoint, graph, error)) from error
    return graph


def checksum_of(graph: Path) -> Path:
    """Return the file that a graph's SHA-256 is kept in."""
    return graph.with_name(f"{graph.name}.sha256")


def cannot_write(checkpoint: Checkpoint, file: Path, error: OSError) -> str:
    """Return the message for the user that a file beside the weights cannot be written, and what to do."""
    return (
        f"{checkpoint.name}: cannot write {file} ({error.strerror}); free some space or set CUTOUT_MODELS_DIR"
    )


def export_onnx(network: nn.Module, file: Path, input_size: int, batch: int = 1) -> None:
    """Write `network` (pixels [B,3,S,S] → logits [B,1,S,S], B = `batch`, S = `input_size`) to `file`, atomically.

    The batch size is fixed: a dynamic one takes three times as long to trace for BiRefNet and saves nothing on a
    CPU. The exporter's own optimiser is disabled: it takes a minute, and ONNX Runtime does the same in seconds when
    it opens the file.
    """
    has_windows = any(isinstance(module, FusedWindowAttention) for module in network.modules())
    write_graph(
        network,
        torch.zeros(batch, 3, input_size, input_size),
        file,
        optimize=False,
        opset_version=ATTENTION_OPSET if has_windows else None,
    )


def write_graph(network: nn.Module, pixels: Tensor, file: Path, **options: Any) -> None:
    """Trace `network` with `pixels` and write its ONNX graph, "pixels" → "logits", to `file`, atomically.

    `options` are those of `torch.onnx.export`.
    """
    # The exporter logs at length which optional operators are missing and which nodes it merges.
    for library in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            verbose=False,
            input_names=["pixels"],
            output_names=["logits"],
            **options,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=file.parent) as staging:
        staged = Path(staging) / file.name
        program.save(staged)
        staged.replace(file)
