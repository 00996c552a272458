"""IS-Net in the libraries that run networks on a CPU: each in a process of its own, in turn, on one thread and on two.

OpenVINO, which Cutout does not use, is installed into a separate virtual environment. All have the same weights in
float32; the mask of each is compared with torch's. Which library is fastest depends on the processor: MNN has no
kernels for AVX-512, which ONNX Runtime, OpenVINO and torch have. The page of results says whether this one has it. On a
host that is busy with other things, the processor time on one thread says more than the time.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import inputs
from benchmarks.environments import python_with
from benchmarks.report import Table, publish
from cutout.app.config import settings
from cutout.inference.backends.mnn_export import convert
from cutout.inference.backends.onnx_export import onnx_graph
from cutout.inference.imaging import decode
from cutout.inference.matting.mask import to_pixels
from cutout.models.catalog import find

CHECKPOINT = find("isnet-general")
OPENVINO = "openvino==2026.4.1"
ENVIRONMENT = Path("var/openvino-venv")
LIBRARIES = ("mnn", "onnxruntime", "openvino", "torch")
THREADS = (1, 2)
ROUNDS = 3
RUNS_A_ROUND = 3


def run() -> None:
    """Measure all libraries, print and save the results."""
    python = python_with(OPENVINO, ENVIRONMENT)
    graph = onnx_graph(CHECKPOINT, settings.load().models_folder)
    found: dict[tuple[int, str], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rgb = torch.from_numpy(decode.decode(inputs.jpeg("astronaut", 2.0)).rgb)
        np.save(folder / "pixels.npy", to_pixels(rgb, CHECKPOINT).numpy())
        convert(graph, folder / "mnn")
        models = {"mnn": str(folder / "mnn"), "torch": CHECKPOINT.name}
        models |= {"onnxruntime": str(graph), "openvino": str(graph)}
        for _ in range(ROUNDS):
            for threads in THREADS:
                for library in LIBRARIES:
                    interpreter = python if library == "openvino" else sys.executable
                    command = [interpreter, "-m", "benchmarks.sides.library", library, models[library]]
                    command += [str(folder / "pixels.npy"), str(folder / f"{library}.npy"), str(RUNS_A_ROUND)]
                    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
                    done = subprocess.run(
                        command, check=True, stdout=subprocess.PIPE, text=True, env=environment
                    )
                    found.setdefault((threads, library), []).append(json.loads(done.stdout.splitlines()[-1]))
        masks = {library: np.load(folder / f"{library}.npy") for library in LIBRARIES}
    differences = {library: float(np.abs(mask - masks["torch"]).max()) for library, mask in masks.items()}
    _publish(found, differences)


def _publish(found: dict[tuple[int, str], list[dict[str, Any]]], differences: dict[str, float]) -> None:
    rows, figures = [], []
    for (threads, library), rounds in found.items():
        one = {
            "run_s": round(median(second for each in rounds for second in each["seconds"]), 3),
            "processor_s": round(median(second for each in rounds for second in each["processor"]), 3),
            **{f"{key}_s": round(median(each[key] for each in rounds), 3) for key in ("open", "first")},
            "added_mb": round(median(each["added_mb"] for each in rounds)),
        }
        times = [f"{one[key]:.2f} s" for key in ("run_s", "processor_s", "open_s", "first_s")]
        rows.append([str(threads), library, *times, f"{one['added_mb']} MB", f"{differences[library]:.1e}"])
        figures.append({"threads": threads, "library": library, **one})
    avx512 = "AVX-512" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "no AVX-512"
    title = f"{CHECKPOINT.name} in float32 on a processor with {avx512}, medians, {OPENVINO}"
    columns = [
        "threads",
        "library",
        "a run",
        "processor time",
        "opening",
        "first run",
        "memory added, peak",
        "off torch's mask, most",
    ]
    publish(
        "cpu_runners",
        [Table(title, columns, rows)],
        {"avx512": avx512, "openvino": OPENVINO, "libraries": figures, "differences": differences},
    )
