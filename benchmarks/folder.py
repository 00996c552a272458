"""A folder of 20 photos through the engine: the network's share of the wall time.

Once the engine is warm, decoding and encoding should overlap with the network: on a CPU, where it takes
2 s per photo, it should be busy 92 % of the time or more. One of the photos is broken on purpose.
"""

import time
from statistics import median

from benchmarks import inputs
from benchmarks.report import Table, publish
from cutout.app.bootstrap import engine_from
from cutout.app.config import settings
from cutout.inference.cutout import Cutout
from cutout.inference.errors import InvalidPhoto
from cutout.inference.options import Options

COUNT = 20
MEGAPIXELS = 2.0


def photos() -> list[tuple[str, bytes]]:
    """Return photos of a size typical for a web shop; the last one is truncated."""
    made = [inputs.jpeg(name, MEGAPIXELS) for name in inputs.SUBJECTS]
    work = [(f"photo-{index:02}.jpg", made[index % len(made)]) for index in range(COUNT)]
    name, data = work[-1]
    return [*work[:-1], (name, data[: len(data) // 2])]


def run() -> None:
    """Measure the folder, print and save the results."""
    work = photos()
    engine = engine_from(settings.load())
    try:
        start = time.perf_counter()
        tasks = ((name, lambda data=data: data) for name, data in work)
        outcomes = dict(engine.remove_many(tasks, Options()))
        wall = time.perf_counter() - start
        network = engine.network_seconds
    finally:
        engine.close()
    cutouts = [outcome for outcome in outcomes.values() if isinstance(outcome, Cutout)]
    broken = [name for name, outcome in outcomes.items() if isinstance(outcome, InvalidPhoto)]
    stages = {stage: median(cutout.seconds[stage] for cutout in cutouts) for stage in cutouts[0].seconds}

    rows = [["wall", f"{wall:.1f} s"], ["network", f"{network:.1f} s"], ["share", f"{network / wall:.1%}"]]
    rows += [[f"{stage}, median", f"{1000 * seconds:.0f} ms"] for stage, seconds in stages.items()]
    rows += [["failed", ", ".join(broken)]]
    table = Table(
        f"{len(work)} photos of {MEGAPIXELS:g} megapixels, {cutouts[0].checkpoint} on {cutouts[0].backend}",
        ["", ""],
        rows,
    )
    publish(
        "folder",
        [table],
        {
            "photos": len(work),
            "megapixels": MEGAPIXELS,
            "checkpoint": cutouts[0].checkpoint,
            "backend": cutouts[0].backend,
            "wall_s": round(wall, 2),
            "network_s": round(network, 2),
            "network_share": round(network / wall, 4),
            "stage_median_s": {stage: round(seconds, 4) for stage, seconds in stages.items()},
            "failed": broken,
        },
    )
