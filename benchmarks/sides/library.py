"""The side of one library: `library.py LIBRARY MODEL PIXELS MASK COUNT`, on as many threads as OMP_NUM_THREADS says.

`MODEL` is an ONNX graph for OpenVINO, and for the others the name of a checkpoint. `PIXELS` and `MASK` are files of
numpy's; the mask is written.
"""

import json
import os
import sys
import time
from collections.abc import Callable
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


def in_a_runner(library: str, name: str) -> Callable[[Array], Array]:
    """Open a checkpoint in one of Cutout's own runners."""
    import torch

    from cutout.app.config import settings
    from cutout.inference.backends.mnn_export import converted
    from cutout.inference.backends.mnn_runner import MnnRunner
    from cutout.inference.backends.onnx_export import onnx_graph
    from cutout.inference.backends.runners import OnnxRunner, Runner, TorchRunner
    from cutout.inference.weights.loader import load_network
    from cutout.models.catalog import find

    checkpoint, folder = find(name), settings.load().models_folder
    runner: Runner
    if library == "torch":
        runner = TorchRunner(load_network(checkpoint, folder), torch.device("cpu"))
    elif library == "onnxruntime":
        runner = OnnxRunner(onnx_graph(checkpoint, folder))
    else:
        runner = MnnRunner(converted(checkpoint, folder, lambda made: MnnRunner(made).logits))
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
    mask, seconds = run(pixels), [time.perf_counter() - opened]
    for _ in range(int(count)):
        start_of_run = time.perf_counter()
        mask = run(pixels)
        seconds.append(time.perf_counter() - start_of_run)
    np.save(mask_file, mask)
    figures = {"open": opened - start, "first": seconds[0], "seconds": seconds[1:]}
    print(json.dumps({**figures, "added_mb": peak_mb() - before}))


main()
