"""The library that runs IS-Net fastest on this host: MNN or ONNX Runtime, measured once and remembered.

MNN needs a third of the multiplications, but has no kernels for AVX-512, with which ONNX Runtime can make up for that.
Which is faster depends on how a processor carries out these instructions, so no flag of it says which.
"""

import hashlib
import json
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from torch import Tensor

from cutout.inference.backends import mnn_export
from cutout.inference.backends.mnn_export import MnnFailed
from cutout.inference.backends.mnn_runner import MnnRunner
from cutout.inference.backends.onnx_export import GRAPH_VERSION, cannot_write, checksum_of, onnx_graph
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.inference.backends.trial import trial_pixels
from cutout.inference.cores import CPUINFO
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

UNKNOWN = "mnn or onnxruntime"
# MNN is used only if it takes less than this of ONNX Runtime's time: it takes longer to open, and 240 MB more.
WORTH_IT = 0.9
RUNS = 2
# Logits that differ more than this, of 1 plus their magnitude, are those of a network that was not converted rightly.
DIFFER = 0.01


@dataclass(frozen=True)
class Measured:
    """The library chosen for a checkpoint, the reason, and the seconds that a run takes in each library that works."""

    library: str
    reason: str
    seconds: dict[str, float] = field(default_factory=dict)


def known(checkpoint: Checkpoint, folder: ModelsFolder) -> Measured | None:
    """Return what was measured on this host for these weights and versions of the libraries, or None if nothing was."""
    try:
        return Measured(**json.loads(_record(checkpoint, folder).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def remember(checkpoint: Checkpoint, folder: ModelsFolder, measured: Measured) -> None:
    """Write down what was measured, for `known`."""
    _record(checkpoint, folder).write_text(json.dumps(asdict(measured), indent=2) + "\n")


def open_fastest(checkpoint: Checkpoint, folder: ModelsFolder) -> MnnRunner | OnnxRunner:
    """Open a checkpoint in the faster library. On the first use, this converts it and measures both, which takes 20 s.

    Where MNN does not work, this logs why and opens the checkpoint in ONNX Runtime.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `onnx_graph`.

    """
    folder.check(checkpoint)
    runner = _open_known(checkpoint, folder)
    if runner is None:
        with alone(folder.file(checkpoint)):
            runner = _open_known(checkpoint, folder) or _find_out(checkpoint, folder)
    return runner


def _open_known(checkpoint: Checkpoint, folder: ModelsFolder) -> MnnRunner | OnnxRunner | None:
    """Open a checkpoint in the library that was the faster one; None if nothing was measured or files are damaged."""
    measured = known(checkpoint, folder)
    if measured is None:
        return None
    if measured.library == "mnn":
        target = mnn_export.folder_for(checkpoint, folder, folder.verify(checkpoint))
        if not mnn_export.is_whole(target):
            return None
        try:
            return MnnRunner(target)
        except MnnFailed as error:
            _warn(checkpoint, f"MNN cannot be used: {error}")
    return OnnxRunner(onnx_graph(checkpoint, folder))


def _find_out(checkpoint: Checkpoint, folder: ModelsFolder) -> MnnRunner | OnnxRunner:
    """Measure both libraries, remember the result and open the faster one."""
    target = mnn_export.folder_for(checkpoint, folder, folder.verify(checkpoint))
    if known(checkpoint, folder):
        log.warning("%s is damaged or missing and is made anew", target)
    graph = onnx_graph(checkpoint, folder)
    try:
        try:
            measured = _measure(graph, target, checkpoint.input_size)
            log.info("%s runs in %s, %s", checkpoint.name, measured.library, measured.reason)
        except MnnFailed as error:
            measured = Measured("onnxruntime", f"MNN cannot be used: {error}")
            _warn(checkpoint, f"{measured.reason} (remove {_record(checkpoint, folder)} to try again)")
        remember(checkpoint, folder, measured)
    except OSError as error:
        _warn(checkpoint, cannot_write(checkpoint, target.parent, error))
        return OnnxRunner(graph)
    if measured.library == "mnn":
        for file in (graph, checksum_of(graph)):
            file.unlink(missing_ok=True)  # 177 MB that only ONNX Runtime needs
        return MnnRunner(target)
    return OnnxRunner(graph)


def _warn(checkpoint: Checkpoint, reason: str) -> None:
    log.warning("%s may run slower than it could: %s", checkpoint.name, reason)


@contextmanager
def alone(file: Path) -> Iterator[None]:
    """Let one process at a time measure or build, as it would disturb another; those that waited find its result."""
    if sys.platform == "win32":  # it has no such locks: two processes may do the same work
        yield
        return
    import fcntl

    with file.open("rb") as held:
        with suppress(OSError):  # a network file system may have no locks
            fcntl.flock(held, fcntl.LOCK_EX)
        yield


def _record(checkpoint: Checkpoint, folder: ModelsFolder) -> Path:
    """Return the file that remembers a measurement. All that it depends on is in its name."""
    about = (
        GRAPH_VERSION,
        installed_version("MNN"),
        installed_version("onnxruntime", "onnxruntime-gpu"),
        _processor(),
    )
    key = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return folder.file(checkpoint).with_name(f"fastest-{key[:12]}.json")


def installed_version(*packages: str) -> str:
    """Return the version of the first of these packages that is installed."""
    for package in packages:
        with suppress(PackageNotFoundError):
            return version(package)
    return ""


def _processor() -> list[str]:
    """Return the lines of /proc/cpuinfo that tell one kind of processor from another."""
    telling = ("vendor_id", "cpu family", "model", "flags", "CPU implementer", "CPU part", "Features")
    try:
        first = CPUINFO.read_text().split("\n\n")[0].splitlines()
    except OSError:
        return []
    return [line for line in first if line.startswith(telling)]


def _measure(graph: Path, target: Path, input_size: int) -> Measured:
    """Convert a graph for MNN, measure both libraries, and keep the converted network as `target` if it is the faster.

    Raises:
        MnnFailed: MNN cannot convert the network or load it, or gives other masks.
        OSError: the models folder is full or read-only.

    """
    pixels = trial_pixels(input_size)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=target.parent) as name:
        staged = Path(name, target.name)
        mnn_export.convert(graph, staged)
        # One after the other, so that the memory of only one is taken.
        expected, onnx = _timed(OnnxRunner(graph).logits, pixels)
        found, mnn = _timed(MnnRunner(staged).logits, pixels)
        difference = (found - expected).abs() / (1 + expected.abs())
        if not bool((difference < DIFFER).all()):  # a logit that is not a number differs, too
            raise MnnFailed(f"the converted network gives other masks (by {float(difference.max()):.3g}).")
        library = "mnn" if mnn < WORTH_IT * onnx else "onnxruntime"
        if library == "mnn":
            shutil.rmtree(target, ignore_errors=True)  # one that nobody remembers
            staged.rename(target)
    reason = f"measured here: {mnn:.2f} s a run in MNN, {onnx:.2f} s in ONNX Runtime"
    return Measured(library, reason, {"mnn": mnn, "onnxruntime": onnx})


def _timed(logits: Callable[[Tensor], Tensor], pixels: Tensor) -> tuple[Tensor, float]:
    """Return the logits of `pixels` and the seconds that a run takes: the fewest of some, after one to warm up."""
    result, seconds = logits(pixels), []
    for _ in range(RUNS):
        start = time.perf_counter()
        result = logits(pixels)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds)
