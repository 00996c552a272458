"""The side of one library: `library.py LIBRARY MODEL PIXELS MASK COUNT`, on as many threads as OMP_NUM_THREADS says.

`MODEL` is a converted network for MNN, a checkpoint's name for torch, and an ONNX graph for the others. `PIXELS` and
`MASK` are files of numpy's; the mask is written.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.sides.measure import peak_mb, resident_mb

Array = np.ndarray[Any, Any]
THREADS = int(os.environ["OMP_NUM_THREADS"])


def in_openvino(graph: str) -> Callable[[Array], Array]:
    """Open a graph in OpenVINO, in float32 as the others."""
    import openvino

    limits = {"INFERENCE_NUM_THREADS": THREADS, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(graph, "CPU", limits)
    return lambda pixels: np.asarray(1 / (1 + np.exp(-compiled(pixels)[0])))


def in_a_runner(library: str, model: str) -> Callable[[Array], Array]:
    """Open a model in one of Cutout's own runners."""
    import torch

    from cutout.app.config import settings
    from cutout.inference.backends.mnn_runner import MnnRunner
    from cutout.inference.backends.onnx_runner import OnnxRunner
    from cutout.inference.backends.runners import Runner, TorchRunner
    from cutout.inference.weights.loader import load_network
    from cutout.models.catalog import find

    runner: Runner
    if library == "torch":
        network = load_network(find(model), settings.load().models_folder)
        runner = TorchRunner(network, torch.device("cpu"))
    else:
        runner = (MnnRunner if library == "mnn" else OnnxRunner)(Path(model))
    return lambda pixels: np.asarray(runner.run(torch.from_numpy(pixels)))


def main() -> None:
    """Open, run once to warm up and then the runs that count; print the figures as a line of JSON."""
    library, model, pixels_file, mask_file, count = sys.argv[1:]
    pixels = np.load(pixels_file)
    if library != "openvino":
        import torch  # noqa: F401 - Cutout has loaded it anyway: it is not part of what a runner adds
    before, start = resident_mb(), time.perf_counter()
    run = in_openvino(model) if library == "openvino" else in_a_runner(library, model)
    opened = time.perf_counter()
    mask = run(pixels)
    figures: dict[str, Any] = {"open": opened - start, "first": time.perf_counter() - opened}
    figures |= {"seconds": [], "processor": []}
    for _ in range(int(count)):
        at, processor = time.perf_counter(), time.process_time()
        mask = run(pixels)
        figures["seconds"].append(time.perf_counter() - at)
        figures["processor"].append(time.process_time() - processor)
    np.save(mask_file, mask)
    print(json.dumps({**figures, "added_mb": peak_mb() - before}))


main()
