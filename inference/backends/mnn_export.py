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
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path

from cutout.inference.backends.onnx_export import GRAPH_VERSION
from cutout.inference.weights.store import ModelsFolder, sha256
from cutout.models.catalog import Checkpoint

log = logging.getLogger(__name__)

GRAPH, WEIGHTS, CHECKSUMS = "network.mnn", "network.mnn.weight", "sha256.json"
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


class MnnFailed(RuntimeError):
    """MNN cannot be used for a network; the message says why."""


def why_not() -> str | None:
    """Return why this host cannot run networks in MNN, or None if it can."""
    if sys.platform != "linux":
        return "MNN is used on Linux only"
    try:
        version("MNN")
    except PackageNotFoundError:
        return "MNN is not installed; run: pip install 'cutout-server[cpu]'"
    return None


def folder_for(checkpoint: Checkpoint, folder: ModelsFolder, digest: str) -> Path:
    """Return where the converted network of a checkpoint is kept, whose weights have this SHA-256."""
    return folder.file(checkpoint).with_name(f"mnn-{version('MNN')}-v{GRAPH_VERSION}-{digest[:12]}")


def convert(graph: Path, folder: Path) -> None:
    """Write a network's ONNX graph, converted for MNN, as a new `folder`.

    Raises:
        MnnFailed: MNN cannot convert the network.
        OSError: the folder cannot be written.

    """
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CONVERTER, *map(str, (converter(), graph, folder / GRAPH))],
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
    if files[1].stat().st_size < _kernel_bytes(graph):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(files[1]))
    (folder / CHECKSUMS).write_text(json.dumps({file.name: sha256(file) for file in files}, indent=2) + "\n")


def _kernel_bytes(graph: Path) -> int:
    """Return the size of the kernels of all convolutions of an ONNX graph in float32."""
    import onnx

    return sum(
        4 * prod(tensor.dims) for tensor in onnx.load(graph).graph.initializer if len(tensor.dims) == 4
    )


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


def is_whole(folder: Path) -> bool:
    """Return whether a converted network's files are those that were written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text())
        return bool(checksums == {name: sha256(folder / name) for name in (GRAPH, WEIGHTS)})
    except (OSError, ValueError):
        return False
