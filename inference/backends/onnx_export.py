"""Export of a network as an ONNX graph, for ONNX Runtime."""

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn


def export_onnx(network: nn.Module, file: Path, input_size: int, batch: int = 1) -> None:
    """Write `network` (pixels [B,3,S,S] → logits [B,1,S,S], B = `batch`, S = `input_size`) to `file`, atomically.

    The batch size is fixed: a dynamic one takes three times as long to trace for BiRefNet and saves nothing on a
    CPU. The exporter's own optimiser is disabled: it takes a minute, and ONNX Runtime does the same in seconds when
    it opens the file.
    """
    pixels = torch.zeros(batch, 3, input_size, input_size)
    # The exporter logs at length which optional operators are missing and which nodes it merges.
    for library in ("torch.onnx", "onnx_ir", "onnxscript"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):
        program = torch.onnx.export(
            network,
            (pixels,),
            dynamo=True,
            verbose=False,
            optimize=False,
            input_names=["pixels"],
            output_names=["logits"],
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=file.parent) as staging:
        staged = Path(staging) / file.name
        program.save(staged)
        staged.replace(file)
