"""Checks of one network on the device: its masks, its graphs, what it takes, and how fast it is."""

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cutout.inference.backends.cuda import FixedBatch, Streams, download, upload, wait_for
from cutout.inference.backends.runners import Precision, Runner, TorchRunner
from cutout.inference.errors import OutOfMemory
from cutout.inference.matting.mask import to_pixels
from cutout.inference.selftest import samples
from cutout.inference.selftest.checklist import REPORT_IT, Fact, Failed, Skipped
from cutout.inference.selftest.comparison import FLAT, MEAN_LEVELS, USE_FLOAT32, apart, require_sound
from cutout.inference.selftest.subjects import Subject
from cutout.inference.selftest.weights import ORDERS
from cutout.models import gpu_kernels
from cutout.models.birefnet import BiRefNet

BUSY_THREADS = 4
SPEED_SECONDS = 0.3  # for each batch size, on a GPU; on a CPU one run is enough
CAPTURES = 3
FULL = 2**30  # with less free memory than this, in bytes, the first large photo may not fit
MIB = 2**20


@dataclass(frozen=True)
class Reference:
    """The photo as a network sees it, float32 [1,3,S,S], and its mask [1,1,S,S] by the CPU in float32, both there."""

    pixels: Tensor = field(repr=False)
    mask: Tensor = field(repr=False)


def make_reference(network: nn.Module, subject: Subject) -> Reference:
    """Run a network on the CPU in float32.

    Raises:
        Failed: even there it gives no mask.

    """
    pixels = to_pixels(torch.from_numpy(samples.photo()), subject.checkpoint)
    mask = TorchRunner(network, torch.device("cpu")).run(pixels)
    try:
        require_sound(mask)
    except Failed as error:
        again = (
            f"The weights are damaged or those of another network. Run: {subject.checkpoint.install_command}"
        )
        raise Failed(f"on the CPU in float32, {error.text}", again) from None
    return Reference(pixels, mask)


def opened(subject: Subject, precision: Precision, batch: int, runners: dict[str, Runner]) -> Fact:
    """Open the runner that serves a network, warm it up, and put it into `runners` under its checkpoint's name.

    What is logged meanwhile, such as that kernels do not run here, is part of the finding.
    """
    with _warnings() as said:
        runner = subject.open(precision, batch)
        runner.warm_up(subject.checkpoint.input_size)
        wait_for(runner.device)
    runners[subject.checkpoint.name] = runner
    figures: dict[str, Any] = {"backend": runner.backend, "warnings": said}
    if isinstance(runner, TorchRunner):
        figures["captured"] = runner.captured
    if said:
        return Fact(f"{runner.backend}, but: {'; '.join(said)}", figures, REPORT_IT)
    return Fact(runner.backend, figures)


def same_masks(subject: Subject, runner: Runner, precision: str, reference: Reference) -> Fact:
    """Check the device's mask of the photo against the CPU's.

    Raises:
        Failed: it is no mask, or differs by more than the precision explains.

    """
    seen = to_pixels(torch.from_numpy(samples.photo()).to(runner.device), subject.checkpoint)
    resized = float((seen.cpu() - reference.pixels).abs().max())
    mask = _run(runner, reference.pixels.to(runner.device)).cpu()
    require_sound(mask)
    off = apart(mask, reference.mask)
    figures = {**off.figures, "resizing_max": resized, "reference_levels": 255 * float(reference.mask.std())}
    if off.mean > MEAN_LEVELS[precision]:
        if name := _explained_by_order(subject, mask, precision):
            raise Failed(
                f"patches are stacked in the order {name!r}, which is not that of {subject.checkpoint.name}",
                f"Remove the files graph-*.onnx beside the weights of {subject.checkpoint.name} and run the test again."
                " If it fails again, update Cutout.",
                figures,
            )
        raise Failed(f"masks differ from those of the CPU by {off}", USE_FLOAT32, figures)
    if resized > 0.05:
        raise Failed(f"the photo is resized differently, by {resized:.2g} at most", REPORT_IT, figures)
    if figures["reference_levels"] < 10 * FLAT:
        return Fact(f"as on the CPU ({off}), but the mask is nearly flat: this says little", figures)
    return Fact(f"as on the CPU in float32: {off} apart", figures)


def same_from_graphs(runner: Runner, precision: str, reference: Reference) -> Fact:
    """Check each graph's masks against those without graphs, while other threads use pinned memory and events.

    Raises:
        Failed: a mask differs, is another photo's, or another thread's copies were disturbed.
        Skipped: the runner has no graphs.

    """
    if not isinstance(runner, TorchRunner) or not runner.captured:
        raise Skipped("this runner uses no graphs")
    device, pixels = runner.device, reference.pixels
    variants = [part.to(device) for part in (pixels, pixels.flip(3), pixels.flip(2), pixels * 0.5)]
    expected = [runner.run_eagerly(part).cpu() for part in variants]
    worst = 0.0
    with _busy_threads(device) as copies:
        for size in runner.captured:
            for count in sorted({size, max(1, size - 1)}):
                chosen = [number % len(variants) for number in range(count)]
                masks = _run(runner, torch.cat([variants[number] for number in chosen])).cpu()
                for number, mask in zip(chosen, masks.split(1), strict=True):
                    off = apart(mask, expected[number]).mean
                    worst = max(worst, off)
                    if not off <= MEAN_LEVELS[precision]:
                        raise Failed(
                            f"in a batch of {count}, a mask differs by {off:.2g} levels from the one without a graph",
                            "Set CUTOUT_BATCH_SIZE=1 and run the test again. " + REPORT_IT,
                        )
    sizes = ", ".join(map(str, runner.captured))
    figures = {"sizes": runner.captured, "max_mean_levels": worst, "copies_meanwhile": sum(copies)}
    return Fact(f"batches of {sizes}: at most {worst:.2g} levels from those without graphs", figures)


def kernels_in_use(runner: Runner, precision: str, reference: Reference) -> Fact:
    """Say whether Triton's kernels are in use, and compare them with torch's own operators.

    Raises:
        Failed: masks differ.
        Skipped: they are not meant for this device or precision.

    """
    if not isinstance(runner, TorchRunner) or runner.device.type == "cpu" or precision == "float32":
        raise Skipped("Triton's kernels are for GPUs, in half precision")
    if not gpu_kernels.INSTALLED:
        advice = "Without Triton, RMBG-2.0 takes several times as long. Install torch for CUDA from PyPI, which brings it along."
        return Fact("not in use: Triton is not installed", {"in_use": False}, advice)
    pixels = reference.pixels.to(runner.device)
    if not gpu_kernels.usable(pixels.half()):
        advice = "RMBG-2.0 takes several times as long. Triton needs a C compiler on the host, such as gcc; see the warnings of the check 'opening'."
        return Fact("not in use: they did not run, or gave other masks", {"in_use": False}, advice)
    mask = runner.run_eagerly(pixels).cpu()
    with gpu_kernels.only(on=False):
        off = apart(mask, runner.run_eagerly(pixels).cpu())
    if off.mean > MEAN_LEVELS[precision]:
        raise Failed(f"masks differ by {off} from those of torch's operators", USE_FLOAT32, off.figures)
    return Fact(f"in use: {off} from torch's operators", {"in_use": True, **off.figures})


def memory(runner: Runner, input_size: int) -> Fact:
    """Measure the memory that a batch of each size takes without a graph, and what is free of the GPU's.

    Raises:
        Skipped: not on a GPU.

    """
    if not isinstance(runner, TorchRunner) or runner.device.type != "cuda":
        raise Skipped("measured on GPUs only")
    peaks: dict[int, float | None] = {}
    for size in _sizes(runner):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            runner.run_eagerly(torch.zeros(size, 3, input_size, input_size, device=runner.device))
            torch.cuda.synchronize()
        except OutOfMemory:
            peaks[size] = None
        else:
            peaks[size] = round((torch.cuda.max_memory_allocated() - before) / MIB)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    figures = {"mib_by_batch": peaks, "free_mib": free // MIB, "total_mib": total // MIB}
    told = ", ".join(f"{size}: {peak or 'too much'}" for size, peak in peaks.items())
    advice = (
        "" if free > FULL else "Set a smaller CUTOUT_BATCH_SIZE, or free some GPU memory (see nvidia-smi)."
    )
    return Fact(
        f"MiB for a batch of {told}; {free / 2**30:.1f} of {total / 2**30:.1f} GiB are free", figures, advice
    )


def speed(runner: Runner, input_size: int) -> Fact:
    """Measure photos per second in the network alone, for each batch size; on a CPU by one run of one photo."""
    rates = {}
    on_gpu = runner.device.type == "cuda"
    for size in _sizes(runner):
        pixels = torch.rand(size, 3, input_size, input_size, device=runner.device) - 0.5
        if on_gpu:
            _run(runner, pixels)
        runs, start = 0, time.perf_counter()
        while not runs or (on_gpu and time.perf_counter() - start < SPEED_SECONDS):
            _run(runner, pixels)
            runs += 1
        rates[size] = size * runs / (time.perf_counter() - start)
    told = ", ".join(f"{size}: {rate:.3g}" for size, rate in rates.items())
    return Fact(f"photos/s at a batch of {told}", {"photos_per_s_by_batch": rates})


def capture_beside_threads(device: torch.device) -> Fact:
    """Capture graphs while other threads use pinned memory and events. Cutout does not do so; but others may.

    Raises:
        Skipped: not on a GPU.

    """
    if device.type != "cuda":
        raise Skipped("graphs are for GPUs")
    try:
        with _busy_threads(device) as copies, torch.inference_mode():
            for _ in range(CAPTURES):
                found = FixedBatch(lambda x: x * 2 + 1, torch.ones(4, 3, device=device), None)
                doubled = found(torch.full((4, 3), 3.0, device=device))
                if not bool((doubled == 7).all()):
                    raise Failed("a graph gives other results than it was captured with", REPORT_IT)
    except RuntimeError as error:
        text = str(error).splitlines()[0]
        advice = (
            "Nothing to do, as long as Cutout's networks are warmed up before photos come, which they are."
        )
        return Fact(f"a graph cannot be captured while other threads copy ({text})", {"works": False}, advice)
    return Fact(f"{CAPTURES} graphs captured meanwhile", {"works": True, "copies_meanwhile": sum(copies)})


@torch.inference_mode()
def _run(runner: Runner, pixels: Tensor) -> Tensor:
    """Run a network and wait for it."""
    masks = runner.run(pixels)
    wait_for(runner.device)
    return masks


def computed_in(runner: Runner, precision: str) -> str:
    """Return the precision that a runner computes in: bfloat16, if it found float16 too narrow for its network."""
    return "bfloat16" if "bfloat16" in runner.backend.split("-") else precision


def _sizes(runner: Runner) -> tuple[int, ...]:
    """Return the batch sizes to measure: those with a graph, or one photo."""
    return (runner.captured if isinstance(runner, TorchRunner) else ()) or (1,)


def _explained_by_order(subject: Subject, mask: Tensor, precision: str) -> str | None:
    """Return the other order of patches if a mask is what the network gives with that one."""
    network = subject.network()
    if not isinstance(network, BiRefNet):
        return None
    (other,) = set(ORDERS) - {network.decoder.patch_order}
    network.decoder.patch_order = other
    return (
        other if apart(mask, make_reference(network, subject).mask).mean <= MEAN_LEVELS[precision] else None
    )


@contextmanager
def _busy_threads(device: torch.device) -> Iterator[list[int]]:
    """Run threads within this block that copy arrays up and down. Yield how often each did, known after the block.

    Raises:
        Failed: at the end of the block, if an array came back changed.

    """
    stop, copies, streams = Event(), [0] * BUSY_THREADS, Streams(device)

    def copy(thread: int) -> None:
        while not stop.is_set():
            value = (copies[thread] + 7 * thread) % 200
            with streams.photo():
                found = download(upload(np.full((256, 256), value, np.uint8), device) + 1)
            if not (found == value + 1).all():
                raise Failed("data came back from the device changed while a network ran", REPORT_IT)
            copies[thread] += 1
            stop.wait(0.001)  # leaves the interpreter to the thread under test

    with ThreadPoolExecutor(BUSY_THREADS) as pool:
        threads = [pool.submit(copy, number) for number in range(BUSY_THREADS)]
        try:
            yield copies
        finally:
            stop.set()
        for thread in threads:
            thread.result()


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect the messages that Cutout logs as warnings within this block."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    handler, log = Collect(logging.WARNING), logging.getLogger("cutout")
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
