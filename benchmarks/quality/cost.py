"""Cost of each tier on a large photo: time per stage, and peak memory of a process that does nothing else."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.quality import scenes
from benchmarks.report import Table, publish
from cutout.inference.tiers import SOLD, Tier

MEGAPIXELS = 12.0
PHOTOS = 3
ROUNDS = 2


def run() -> None:
    """Measure the tiers, print and save the results."""
    runs: dict[Tier, list[dict[str, Any]]] = {tier: [] for tier in SOLD}
    with tempfile.TemporaryDirectory() as name:
        photo = Path(name) / "photo.jpg"
        photo.write_bytes(scenes.make("fur", MEGAPIXELS, 1).photo)
        for _ in range(ROUNDS):
            for tier in SOLD:
                command = [sys.executable, "-m", "benchmarks.sides.cutout", str(photo), f"{name}/out.png"]
                done = subprocess.run(
                    [*command, str(PHOTOS), tier.value], check=True, stdout=subprocess.PIPE, text=True
                )
                runs[tier].append(json.loads(done.stdout.splitlines()[-1]))
    rows, figures = [], {}
    for tier, of_tier in runs.items():
        laps = [lap for one in of_tier for lap in one["stages"]]
        stages = {stage: median(lap[stage] for lap in laps) for stage in laps[0]}
        total = median(second for one in of_tier for second in one["seconds"])
        peak = max(one["peak_mb"] for one in of_tier)
        figures[tier.value] = {"seconds": total, "peak_mb": peak, "stages": stages}
        rows.append(
            [
                tier.value,
                *(f"{stages[name]:.2f} s" for name in ("network", "edges")),
                f"{total:.2f} s",
                f"{peak:.0f} MB",
            ]
        )
    table = Table(
        f"One {MEGAPIXELS:g}-megapixel JPEG with a furry subject to PNG, medians",
        ["tier", "network", "edges", "whole", "peak memory"],
        rows,
    )
    publish("quality-cost", [table], {"megapixels": MEGAPIXELS, "tiers": figures})
