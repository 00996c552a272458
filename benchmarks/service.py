"""The service under load, over HTTP on loopback: pictures a second, and how long callers wait.

The service runs in a process of its own, the callers in another, each asking for the next picture once it has the last.
Expected with a network of 20 ms a photo: at one caller 20 ms and little more; from a few callers on the network's own
50 pictures a second, and each caller waits his turn. On this host's own engine the same, in its own time.
"""

import asyncio

import numpy as np

from benchmarks import inputs
from benchmarks.report import Table, publish
from benchmarks.served import put_under, served

# Callers, and pictures they ask for together: of an engine that waits 20 ms a photo, and of this host's own.
WAITING_MS, WAITING_LOADS, WAITING_MEGAPIXELS = 20, ((1, 60), (8, 200), (32, 400)), 0.005
OWN_LOADS, OWN_MEGAPIXELS = ((1, 4), (8, 16), (32, 40)), 2.0


def run() -> None:
    """Measure, print and save."""
    rows, figures = [], {}
    for label, arguments, loads, megapixels in (
        (f"{WAITING_MS} ms a photo", ["--network-ms", str(WAITING_MS)], WAITING_LOADS, WAITING_MEGAPIXELS),
        ("this host's own", [], OWN_LOADS, OWN_MEGAPIXELS),
    ):
        with served(*arguments) as service:
            for callers, pictures in loads:
                load = asyncio.run(
                    put_under(service, callers, pictures, inputs.jpeg("astronaut", megapixels))
                )
                quantiles = [float(np.quantile(load.seconds, share)) for share in (0.5, 0.95, 0.99)]
                statuses = ", ".join(f"{count} × {status}" for status, count in load.statuses.items())
                rows.append(
                    [
                        label if arguments else f"{label}, {service.basic}",
                        f"{megapixels:g}",
                        str(callers),
                        f"{pictures / load.wall:.3g}",
                        *(f"{1000 * seconds:.0f} ms" for seconds in quantiles),
                        statuses,
                    ]
                )
                figures[f"{label}/{callers}"] = {
                    "pictures_per_s": pictures / load.wall,
                    "p50_s": quantiles[0],
                    "p95_s": quantiles[1],
                    "p99_s": quantiles[2],
                    "statuses": dict(load.statuses),
                }
                print(", ".join(rows[-1]), flush=True)
    table = Table(
        "POST /remove, tier basic, JPEG to PNG",
        ["network", "MP", "callers", "pictures/s", "median", "95th", "99th", "answers"],
        rows,
    )
    publish("service", [table], {"loads": figures})
