"""The engine end to end, JPEG to PNG: photos per second by size, time per stage, and the limiting stage.

The networks have random weights and the subject of every photo is a disc (see `standin`). Expected: on a CPU the
network limits at every size. On an H100 with 16 cores it limits for small photos; from two megapixels on, decoding and
deflating limit, at about 40 ms of one core per photo: 300 to 400 photos per second for RMBG-1.4, and 140, its network's
own rate, for RMBG-2.0.

With a network that takes 20 ms per photo, and photos that cost almost nothing, the device should be busy at least 90 %
of the time: the rest is the overhead of the engine itself.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import inputs, standin
from benchmarks.report import Table, publish
from benchmarks.resume import Steps
from cutout.inference.backends.onnx_export import export_onnx
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.runners import BATCH_SIZES, Runner, TorchRunner
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.limits import Limits
from cutout.inference.options import Options
from cutout.inference.scheduling.stage_timer import STAGES
from cutout.inference.tiers import Tier
from cutout.models.catalog import find

CUDA = torch.cuda.is_available()
SECONDS = 4.0 if CUDA else 20.0
SMALL_SECONDS = 0.5
SETTLE_SECONDS = 1.5
ALONE = 15 if CUDA else 3
MEGAPIXELS = (0.3, 2.0, 12.0)
BATCH = 8
SLEEP_MS = 20
# From these shares of the wall time on, the device or the cores count as the limit.
BUSY = 0.9
CORES_BUSY = 0.8


@dataclass(frozen=True)
class Run:
    """Result of a stream of photos. `cores` and `device` are shares of wall time; `stages` are medians in seconds."""

    photos_per_s: float
    device: float
    cores: float
    stages: dict[str, float]
    alone_s: float

    @property
    def limit(self) -> str:
        """The stage that limits the throughput."""
        if self.device >= BUSY:
            return "network"
        if self.cores >= CORES_BUSY:
            return max(("decode", "edges", "encode"), key=lambda stage: self.stages[stage])
        return "waiting: too few photos in progress"


def run(*, again: bool = True, small: bool = False) -> None:
    """Measure every subject, print and save the results. Without `again`, what was measured before is kept: see `resume`.

    `small` is to try the whole way out where there is no GPU: one small size for a moment, and nothing is published.
    """
    steps = Steps("engine-small" if small else "engine", again=again)
    seconds = SMALL_SECONDS if small else SECONDS
    rows, figures = [], {}
    for label, checkpoint, tiers, megapixels, open_runner in subjects()[: 1 if small else None]:
        cases = [(tier, size, f"{label}/{tier.value}/{size:g}") for tier in tiers for size in megapixels]
        with ExitStack() as opened:
            engine = None
            for tier, size, key in cases:
                if engine is None and not steps.has(key):
                    limits = Limits(batch=BATCH if CUDA else 1)
                    engine = standin.engine(open_runner(opened), checkpoint, limits)
                    opened.callback(engine.close)
                    engine.warm_up()

                def measured(
                    tier: Tier = tier, size: float = size, engine: Engine | None = engine
                ) -> dict[str, Any]:
                    assert engine is not None
                    return vars(measure(engine, tier, size, seconds))

                found = Run(**steps.take(key, measured))
                rows.append(row(f"{label}, {tier.value}", size, found))
                figures[key] = {**vars(found), "limit": found.limit}
                print(", ".join(rows[-1]), flush=True)
        # Written after each subject: time with a GPU may end before the last one is done.
        if not small:
            publish("engine", [table_of(rows)], {"batch": BATCH if CUDA else 1, "runs": figures})


def table_of(rows: list[list[str]]) -> Table:
    return Table(
        f"JPEG to PNG, {os.cpu_count()} cores; stages are medians of one photo, in ms, network for its whole batch",
        ["network, tier", "MP", "photos/s", "device", "cores", *STAGES, "alone", "limited by"],
        rows,
    )


Subject = tuple[str, str, list[Tier], tuple[float, ...], Callable[[ExitStack], Runner]]


def subjects() -> list[Subject]:
    """List what to measure on this host: label, checkpoint, tiers, sizes, and a function that opens the runner."""
    found: list[Subject] = [
        (
            f"{SLEEP_MS} ms a photo",
            "isnet-general",
            [Tier.BASIC],
            (0.005,),
            lambda _: standin.DiscRunner.waiting(SLEEP_MS),
        ),
        (
            "rmbg-1.4",
            "rmbg-1.4",
            [Tier.BASIC, Tier.PROFESSIONAL],
            MEGAPIXELS,
            lambda on: real("rmbg-1.4", on),
        ),
    ]
    if CUDA:
        tiers = [Tier.STANDARD, Tier.INDUSTRY]
        found.append(("rmbg-2.0", "rmbg-2.0", tiers, MEGAPIXELS, lambda on: real("rmbg-2.0", on)))
    return found


def real(checkpoint: str, opened: ExitStack) -> Runner:
    """Return a runner of the network, on the backend that this host would use."""
    if CUDA:
        sizes = [size for size in BATCH_SIZES if size <= BATCH]
        return standin.DiscRunner.around(
            TorchRunner(
                standin.network(checkpoint), torch.device("cuda"), dtype=torch.float16, batch_sizes=sizes
            )
        )
    graph = Path(opened.enter_context(tempfile.TemporaryDirectory())) / "graph.onnx"
    export_onnx(standin.network(checkpoint), graph, find(checkpoint).input_size)
    return standin.DiscRunner.around(OnnxRunner(graph))


def measure(engine: Engine, tier: Tier, megapixels: float, seconds: float = SECONDS) -> Run:
    """Stream photos through an engine for some seconds, then send some one at a time."""
    photos = [inputs.jpeg(name, megapixels) for name in inputs.SUBJECTS]
    stop = float("inf")

    def stream() -> Iterator[tuple[int, Callable[[], bytes]]]:
        number = 0
        while time.monotonic() < stop:
            yield number, lambda number=number: photos[number % len(photos)]  # type: ignore[misc]
            number += 1

    done: list[Cutout] = []
    began = time.monotonic()
    counted_from, busy, cores = 0.0, 0.0, 0.0
    for _, outcome in engine.remove_many(stream(), Options(tier=tier)):
        assert isinstance(outcome, Cutout), outcome
        now = time.monotonic()
        if now - began < SETTLE_SECONDS or not counted_from:
            counted_from, busy, cores = now, engine.network_seconds, time.process_time()
            stop = now + seconds
        elif now < stop:
            done.append(outcome)
            wall = now - counted_from
            shares = (engine.network_seconds - busy) / wall, (time.process_time() - cores) / wall
    alone = []
    for number in range(ALONE):
        start = time.perf_counter()
        engine.remove(photos[number % len(photos)], Options(tier=tier))
        alone.append(time.perf_counter() - start)
    return Run(
        photos_per_s=len(done) / wall,
        device=shares[0],
        cores=shares[1] / (os.cpu_count() or 1),
        stages={stage: median(cutout.seconds[stage] for cutout in done) for stage in STAGES},
        alone_s=median(alone),
    )


def row(label: str, megapixels: float, measured: Run) -> list[str]:
    """Format a run as a row of the table."""
    return [
        label,
        f"{megapixels:g}",
        f"{measured.photos_per_s:.3g}",
        f"{measured.device:.0%}",
        f"{measured.cores:.0%}",
        *(f"{1000 * seconds:.0f}" for seconds in measured.stages.values()),
        f"{1000 * measured.alone_s:.0f} ms",
        measured.limit,
    ]
