"""Cutout compared with rembg: the same photo and weights, alternating in one run.

rembg is installed into a separate virtual environment. Each side runs in its own process: it opens its model,
processes one photo to warm up and then several that count. rembg runs the network in ONNX Runtime, Cutout in the faster
of MNN and ONNX Runtime on this processor. Apart from that, the sides should differ only outside the network: in decoding,
resizing, compositing, encoding, and the memory that these and the session take.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import onnx

from benchmarks import inputs
from benchmarks.environments import python_with
from benchmarks.report import Table, publish
from cutout.app.config import settings
from cutout.inference.backends.onnx_export import onnx_graph
from cutout.models.catalog import find

REMBG = "rembg[cpu]==2.0.86"
ENVIRONMENT = Path("var/rembg-venv")
MEGAPIXELS = 12.0
ROUNDS = 3
PHOTOS_A_ROUND = 5


def run() -> None:
    """Measure both sides, print and save the results."""
    python = python_with(REMBG, ENVIRONMENT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.jpg"
        photo.write_bytes(inputs.jpeg("astronaut", MEGAPIXELS))
        graph = _graph_with_sigmoid(folder / "mask.onnx")
        rounds: dict[str, list[dict[str, Any]]] = {"cutout": [], "rembg": []}
        for _ in range(ROUNDS):
            for side, interpreter in (("cutout", sys.executable), ("rembg", python)):
                command = [interpreter, "-m", f"benchmarks.sides.{side}", str(photo)]
                command += [str(folder / f"{side}.png"), str(PHOTOS_A_ROUND)]
                command += [str(graph)] if side == "rembg" else []
                # rembg loads graphs only from its own models folder.
                environment = {**os.environ, "U2NET_HOME": name}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                rounds[side].append(json.loads(done.stdout.splitlines()[-1]))

    figures = {
        side: {
            "seconds": round(median(second for one in runs for second in one["seconds"]), 3),
            "peak_mb": round(median(one["peak_mb"] for one in runs)),
            "png_mb": round(runs[0]["bytes"] / 1e6, 2),
        }
        for side, runs in rounds.items()
    }
    laps = [lap for one in rounds["cutout"] for lap in one["stages"]]
    stages = {stage: round(median(lap[stage] for lap in laps), 4) for stage in laps[0]}
    ratios = {key: round(figures["cutout"][key] / figures["rembg"][key], 3) for key in figures["cutout"]}

    rows = [
        [side, f"{one['seconds']:.2f} s", f"{one['peak_mb']:.0f} MB", f"{one['png_mb']:.1f} MB"]
        for side, one in figures.items()
    ]
    rows.append(["ratio", *(f"{ratio:.2f}" for ratio in ratios.values())])
    whole = Table(
        f"One {MEGAPIXELS:g}-megapixel JPEG to PNG, medians, {REMBG}",
        ["", "time", "peak memory", "PNG"],
        rows,
    )
    stages_table = Table(
        "Where Cutout's time goes",
        ["stage", "median"],
        [[stage, f"{1000 * s:.0f} ms"] for stage, s in stages.items()],
    )
    publish(
        "peers",
        [whole, stages_table],
        {
            "megapixels": MEGAPIXELS,
            "rembg": REMBG,
            "sides": figures,
            "ratios": ratios,
            "cutout_stages_s": stages,
        },
    )


def _graph_with_sigmoid(file: Path) -> Path:
    """Append a sigmoid to Cutout's graph, which outputs logits; rembg expects the mask itself."""
    checkpoint = find("isnet-general")
    model = onnx.load(onnx_graph(checkpoint, settings.load().models_folder))
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["mask"]))
    del model.graph.output[:]
    model.graph.output.append(
        onnx.helper.make_tensor_value_info("mask", onnx.TensorProto.FLOAT, [1, 1, 1024, 1024])
    )
    onnx.save(model, file)
    return file
