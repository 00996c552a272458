"""Conversion of a network for MNN, and where the result is kept.

A converted network is a folder: the graph, its weights, and the checksums of both, without which MNN would take damaged
weights for good ones and give wrong masks. The weights are in a file of their own, because MNN keeps the graph's file
in memory, while it drops the weights when it has transformed them: this saves 170 MB.
"""

import errno
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.inference.backends.onnx_export import GRAPH_VERSION, export_onnx
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

GRAPH, WEIGHTS, CHECKSUMS = "network.mnn", "network.mnn.weight", "sha256.json"
# Logits that differ more than this, of 1 plus their magnitude, are those of a network that was not converted rightly.
DIFFER = 0.01
# `MNN.tools`, the documented way to the converter, must not be imported: it installs a package and reports each use
# to its makers. The compiled converter itself is loaded from its file, by an interpreter that cannot even find that
# package. A process of its own also keeps the converter's output, its 1.3 GB of memory and its crashes out of this one.
CONVERTER = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.ExtensionFileLoader("_tools", sys.argv[1])
tools = importlib.util.module_from_spec(importlib.util.spec_from_loader("_tools", loader))
loader.exec_module(tools)
graph, converted = ["--modelFile", sys.argv[2]], ["--MNNModel", sys.argv[3]]
tools.mnnconvert(["mnnconvert", "-f", "ONNX", *graph, *converted, "--saveExternalData", "1", "--bizCode", "cutout"])
"""

Run = Callable[[Path], Callable[[Tensor], Tensor]]


class MnnFailed(RuntimeError):
    """MNN cannot be used for a network; the message says why."""


def why_not() -> str | None:
    """Return why this host cannot run networks in MNN, or None if it can."""
    if sys.platform != "linux":
        return "MNN is used on Linux only"
    missing = [name for name in ("MNN", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{missing[0]} is not installed; run: pip install 'cutout-server[cpu]'"
    return None


def converted(checkpoint: Checkpoint, folder: ModelsFolder, opened: Run) -> Path:
    """Return the folder of the checkpoint's converted network, making it next to the weights on first use.

    This takes 20 s. `opened` loads a converted network and returns the function from pixels to logits that it is; with
    it, a new one is compared with torch.

    Raises:
        WeightsUnavailable, LicenceNotAccepted: see `load_network`.
        MnnFailed: MNN cannot convert the network, or what it makes gives other masks.
        OSError: the models folder is full or read-only.

    """
    folder.check(checkpoint)
    digest = folder.verify(checkpoint)
    target = folder.file(checkpoint).with_name(f"mnn-{version('MNN')}-v{GRAPH_VERSION}-{digest[:12]}")
    if target.is_dir():
        if is_whole(target):
            return target
        log.warning("%s is damaged and is made anew", target)
        shutil.rmtree(target)
    network = load_network(checkpoint, folder)
    pixels = _blobs(checkpoint.input_size)
    with torch.inference_mode():
        expected: Tensor = network(pixels)
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=target.parent) as name:
        staged = Path(name, target.name)
        convert(network, staged, checkpoint.input_size)
        del network  # 170 MB, of which MNN is about to take four times as much
        compare(opened(staged)(pixels), expected)
        try:
            staged.rename(target)
        except OSError as error:
            # Another process was faster, and its result is as good.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not is_whole(target):
                raise
    return target


def convert(network: nn.Module, folder: Path, input_size: int) -> None:
    """Write `network` (pixels [1,3,S,S] → logits [1,1,S,S], S = `input_size`), converted for MNN, as a new `folder`.

    Raises:
        MnnFailed: MNN cannot convert the network.
        OSError: the folder cannot be written, or has no space left.

    """
    folder.mkdir()
    graph = folder / "network.onnx"
    export_onnx(network, graph, input_size)
    command = [sys.executable, "-I", "-S", "-c", CONVERTER, *map(str, (converter(), graph, folder / GRAPH))]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    log.debug("MNN's converter ended with %d and said: %s", done.returncode, done.stdout)
    files = [folder / GRAPH, folder / WEIGHTS]
    if done.returncode or not all(file.is_file() for file in files):
        said = [line.strip() for line in done.stdout.splitlines() if "error" in line.lower()]
        raise MnnFailed(
            f"its converter ended with {done.returncode}: {said[0] if said else 'no reason given'}"
        )
    # The converter does not notice when the disk is full.
    if files[1].stat().st_size < sum(4 * part.numel() for part in network.parameters()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(files[1]))
    graph.unlink()
    (folder / CHECKSUMS).write_text(json.dumps({file.name: sha256(file) for file in files}, indent=2) + "\n")


def converter() -> Path:
    """Return the file of MNN's compiled converter, which is beside that of its engine.

    Raises:
        MnnFailed: it is not there.

    """
    engine = importlib.util.find_spec("_mnncengine")
    if engine is None or engine.origin is None:
        raise MnnFailed("this build of MNN has no engine")
    file = Path(engine.origin)
    file = file.with_name(file.name.replace("_mnncengine", "_tools"))
    if not file.is_file():
        raise MnnFailed("this build of MNN has no converter")
    return file


def compare(found: Tensor, expected: Tensor) -> None:
    """Check that a converted network gives the logits of the original.

    Raises:
        MnnFailed: it does not.

    """
    difference = (found - expected).abs() / (1 + expected.abs())
    if not bool((difference < DIFFER).all()):  # a logit that is not a number differs, too
        raise MnnFailed(f"the converted network gives other masks (by {float(difference.max()):.3g})")


def _blobs(size: int) -> Tensor:
    """Return the pixels, float32 [1,3,S,S] of -0.5…0.5, of a picture of soft blobs."""
    coarse = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(coarse, size=(size, size), mode="bilinear") - 0.5


def is_whole(folder: Path) -> bool:
    """Return whether a converted network's files are those that were written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return bool(checksums == {name: sha256(folder / name) for name in (GRAPH, WEIGHTS)})
    except (OSError, ValueError):
        return False
