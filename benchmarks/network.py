"""The networks alone: photos per second by precision and batch size, and their share of the device's matmul rate.

On a GPU, "graph" is the form that the engine runs: Triton's kernels, captured as a CUDA graph. "Without kernels" is the
same with torch's own operators in place of Triton's, and "eager" is the engine's form, not captured. CUDA graphs help most
at batch 1, where launching kernels one by one takes longer than running them.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import standin
from benchmarks.report import Table, publish
from benchmarks.resume import Steps
from cutout.inference.backends.onnx_export import export_onnx
from cutout.inference.backends.onnx_gpu_export import export_for_gpu
from cutout.inference.backends.onnx_gpu_runner import Library, OnnxGpuRunner, why_not
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.runners import Runner, TorchRunner
from cutout.inference.errors import DeviceUnavailable
from cutout.models import gpu_kernels
from cutout.models.catalog import find

CHECKPOINTS = ("rmbg-1.4", "rmbg-2.0")
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# Number of blocks of runs and minimum duration of each; the median of the blocks counts.
BLOCKS, BLOCK_SECONDS = (5, 0.4) if CUDA else (2, 0.0)
MATMUL_SIDE = 8192 if CUDA else 2048
TOP = 10
SMALL_SIDE, SMALL_INPUT = 512, 128


@dataclass(frozen=True)
class Case:
    """A way to run a network; `form` is eager, graph, "without kernels", onnxruntime, or tensorrt."""

    form: str
    precision: str
    batch: int


CASES = (
    (
        Case("eager", "float16", 1),
        Case("eager", "float16", 8),
        *(Case("graph", "float16", batch) for batch in (1, 4, 8, 16, 32)),
        Case("without kernels", "float16", 8),
        Case("graph", "bfloat16", 8),
        Case("graph", "float32", 8),
        # the other libraries of CUTOUT_GPU_BACKEND, where they are installed; TensorRT builds its engine for minutes
        *(Case(form, "float16", batch) for form in ("onnxruntime", "tensorrt") for batch in (1, 8)),
    )
    if CUDA
    else (Case("eager", "float32", 1), Case("eager", "float32", 2), Case("onnxruntime", "float32", 1))
)


def run(*, again: bool = True, small: bool = False) -> None:
    """Measure every case, print and save the results. Without `again`, what was measured before is kept: see `resume`.

    `small` is to try the whole way out where there is no GPU: few cases at a small size, and nothing is published.
    """
    steps = Steps("network-small" if small else "network", again=again)
    side = SMALL_SIDE if small else MATMUL_SIDE
    cases = CASES[:1] if small else CASES
    rates = {
        precision: steps.take(
            f"matmul {precision}",
            lambda precision=precision: matmul_rate(precision, side),  # type: ignore[misc]
        )
        for precision in dict.fromkeys(case.precision for case in cases)
    }
    tables = [
        Table(
            f"Product of two matrices of {side}², the upper bound for the device",
            ["precision", "TFLOP/s"],
            [[precision, f"{rate:.3g}"] for precision, rate in rates.items()],
        )
    ]
    figures: dict[str, Any] = {"matmul_tflops": rates, "networks": {}}
    for name in CHECKPOINTS:
        size = SMALL_INPUT if small else find(name).input_size
        gflop = count_gflop(name, size)
        rows, measured = measure_cases(steps, name, size, cases, gflop, rates)
        title = f"{name} at {size}², {gflop:.0f} GFLOP per photo, random weights"
        tables.append(
            Table(title, ["form", "precision", "batch", "per batch", "photos/s", "of matmul"], rows)
        )
        tables.append(
            Table(**steps.take(f"{name} profile", lambda: asdict(where_the_time_goes(name, size))))  # noqa: B023
        )
        figures["networks"][name] = {"gflop": gflop, "cases": measured}
        # Written after each network: time with a GPU may end before the last one is done.
        if not small:
            publish("network", tables, figures)


def measure_cases(
    steps: Steps, name: str, size: int, cases: tuple[Case, ...], gflop: float, rates: dict[str, float]
) -> tuple[list[list[str]], dict[str, dict[str, float]]]:
    """Measure a network in every case. Return the rows of a table, and the figures by case."""
    rows, measured = [], {}
    for case in cases:
        row = [case.form, case.precision, str(case.batch)]
        key = "/".join(row)

        def measure(case: Case = case) -> float:
            with opened(name, case, size) as runner:
                return seconds_a_run(runner, size, case.batch)

        try:
            seconds = steps.take(f"{name} {key}", measure)
        except Exception as error:  # noqa: BLE001 - a case that fails on this host must not end the others
            print(f"{name}, {case}: {error!r}", flush=True)
            rows.append([*row, f"not available: {type(error).__name__}"])
            continue
        each = seconds / case.batch
        share = gflop / 1e3 / each / rates[case.precision]
        rows.append([*row, duration(seconds), f"{1 / each:.3g}", f"{share:.0%}"])
        measured[key] = {"batch_s": seconds, "images_per_s": 1 / each, "share_of_matmul": share}
        print(f"{name}: {', '.join(rows[-1])}", flush=True)
    return rows, measured


def duration(seconds: float) -> str:
    """Format a time with three significant digits."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"


def matmul_rate(precision: str, side: int = MATMUL_SIDE) -> float:
    """Measure the matrix multiplication rate of the device, in TFLOP/s."""
    a, b = (torch.randn(side, side, device=DEVICE, dtype=getattr(torch, precision)) for _ in range(2))
    return 2 * side**3 / 1e12 / timed_blocks(lambda: a @ b)


def count_gflop(name: str, size: int) -> float:
    """Count the GFLOP per photo of the optimised network on the meta device, without computing anything."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        standin.network(name).to("meta")(torch.zeros(1, 3, size, size, device="meta"))
    return float(counter.get_total_flops()) / 1e9


@contextmanager
def opened(name: str, case: Case, size: int) -> Iterator[Runner]:
    """Open a runner for a case, and free its memory afterwards."""
    if case.form in ("onnxruntime", "tensorrt"):
        with tempfile.TemporaryDirectory() as folder:
            yield in_onnx_runtime(standin.network(name), case, size, Path(folder))
    else:
        runner = TorchRunner(
            standin.network(name),
            DEVICE,
            dtype=getattr(torch, case.precision),
            batch_sizes=() if case.form == "eager" else (case.batch,),
        )
        with gpu_kernels.only(on=case.form != "without kernels"):
            runner.warm_up(size)
            yield runner
        del runner
    if CUDA:
        torch.cuda.empty_cache()


def in_onnx_runtime(network: nn.Module, case: Case, size: int, folder: Path) -> Runner:
    """Export a network into `folder` and open it in ONNX Runtime, or in TensorRT through it."""
    if importlib.util.find_spec("onnxruntime") is None:
        raise ModuleNotFoundError("onnxruntime is not installed")
    graph = folder / "graph.onnx"
    if not CUDA:
        export_onnx(network, graph, size, case.batch)
        return OnnxRunner(graph)
    library: Library = "tensorrt" if case.form == "tensorrt" else "onnxruntime"
    if reason := why_not(library):
        raise DeviceUnavailable(reason)
    export_for_gpu(network, graph, size, getattr(torch, case.precision))
    runner = OnnxGpuRunner(graph, library, DEVICE, input_size=size, batch_sizes=(case.batch,))
    runner.warm_up(size)
    return runner


def seconds_a_run(runner: Runner, size: int, batch: int) -> float:
    """Return the seconds per batch, for photos that are already on the device."""
    pixels = torch.randn(batch, 3, size, size, device=runner.device)
    return timed_blocks(lambda: runner.run(pixels))


def timed_blocks(work: Callable[[], Tensor]) -> float:
    """Return the seconds per call, for calls made one after another without synchronising in between."""

    def block(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            work()
        if CUDA:
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count

    once = block(1)
    if CUDA:
        once = block(3)
    return median(block(max(1, round(BLOCK_SECONDS / once))) for _ in range(BLOCKS))


def where_the_time_goes(name: str, size: int) -> Table:
    """Profile one batch in eager mode and return the operations that take longest on the device."""
    batch, precision = (8, "float16") if CUDA else (1, "float32")
    runner = TorchRunner(standin.network(name), DEVICE, dtype=getattr(torch, precision))
    pixels = torch.randn(batch, 3, size, size, device=DEVICE)
    if CUDA:
        runner.run(pixels)
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * CUDA
    with profile(activities=activities) as profiler:
        runner.run(pixels)
        if CUDA:
            torch.cuda.synchronize()
    attribute = "self_device_time_total" if CUDA else "self_cpu_time_total"
    events = [(event.key, float(getattr(event, attribute)), event.count) for event in profiler.key_averages()]
    whole = sum(microseconds for _, microseconds, _ in events)
    events.sort(key=lambda event: -event[1])
    return Table(
        f"Time of {name} by operation, batch {batch}, {precision}, not captured",
        ["operation", "calls", "share"],
        [[key[:90], str(count), f"{spent / whole:.1%}"] for key, spent, count in events[:TOP]],
    )
