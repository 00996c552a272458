"""Cutout compared with rembg: the same photo and weights, alternating in one run.

On a processor with units for bfloat16, Cutout is measured in that precision, too: its masks then differ a little.
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
from cutout.inference.cores import multiplies_bfloat16
from cutout.models.catalog import find

REMBG = "rembg[cpu]==2.0.86"
ENVIRONMENT = Path("var/rembg-venv")
MEGAPIXELS = 12.0
ROUNDS = 3
PHOTOS_A_ROUND = 5
BFLOAT16 = "cutout, bfloat16"


def run() -> None:
    """Measure both sides, print and save the results."""
    rounds = _rounds(python_with(REMBG, ENVIRONMENT))
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
    ratios = {
        side: {key: round(one[key] / figures["rembg"][key], 3) for key in one}
        for side, one in figures.items()
        if side != "rembg"
    }

    rows = [
        [side, f"{one['seconds']:.2f} s", f"{one['peak_mb']:.0f} MB", f"{one['png_mb']:.1f} MB"]
        for side, one in figures.items()
    ]
    rows += [[f"{side} / rembg", *(f"{ratio:.2f}" for ratio in own.values())] for side, own in ratios.items()]
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


def _rounds(rembg: str) -> dict[str, list[dict[str, Any]]]:
    """Run all sides in turn, and return what each measured of itself in each round. `rembg` is its interpreter."""
    sides = {"cutout": "auto"} | ({BFLOAT16: "bfloat16"} if multiplies_bfloat16() else {}) | {"rembg": ""}
    rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        photo = folder / "photo.jpg"
        photo.write_bytes(inputs.jpeg("astronaut", MEGAPIXELS))
        graph = _graph_with_sigmoid(folder / "mask.onnx")
        for _ in range(ROUNDS):
            for side, precision in sides.items():
                module = side.split(",")[0]
                command = [rembg if module == "rembg" else sys.executable, "-m", f"benchmarks.sides.{module}"]
                command += [str(photo), str(folder / "out.png"), str(PHOTOS_A_ROUND)]
                command += [str(graph)] if module == "rembg" else []
                # rembg loads graphs only from its own models folder.
                environment = {**os.environ, "U2NET_HOME": name, "CUTOUT_PRECISION": precision}
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
                rounds[side].append(json.loads(done.stdout.splitlines()[-1]))
    return rounds


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
