"""The service under load, over HTTP on loopback: pictures per second, and latency for callers.

The service runs in its own process, the callers in another; each sends its next request after the previous response.
Expected with a network of 20 ms per photo: one caller waits little more than 20 ms; from a few callers on, throughput
is the network's 50 pictures per second, and callers wait in turn. This host's own engine should behave the same at its
own speed.
"""

import asyncio

import numpy as np

from benchmarks import inputs
from benchmarks.report import Table, publish
from benchmarks.served import put_under, served

# (callers, total pictures) for an engine that waits 20 ms per photo, and for this host's own engine.
WAITING_MS, WAITING_LOADS, WAITING_MEGAPIXELS = 20, ((1, 60), (8, 200), (32, 400)), 0.005
OWN_LOADS, OWN_MEGAPIXELS = ((1, 4), (8, 16), (32, 40)), 2.0


def run() -> None:
    """Measure both engines, print and save the results."""
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
