"""Savings of each exact rewrite in `cutout.models.optimise`: operations, memory, and time on this CPU.

Savings expected for RMBG-2.0 on two cores, before any measurement: folding norms saves 0.3 s, for one pass less over
43 maps; fused attention 1 s for 146 GFLOP less and 4 s for scores that are not written to memory; summing the branches
almost nothing; folding the head 0.5 s for 76 GFLOP less and 1 s for full-size maps that are no longer needed. Together
this is a fifth to a quarter of the time. ONNX Runtime should run the last form 1.2 to 1.7 times faster.

The networks have random weights, with which they take the same time as with trained ones. The forms take
turns in each round.
"""

import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import Table, publish
from cutout.inference.backends.onnx_export import export_onnx
from cutout.inference.backends.onnx_runner import OnnxRunner
from cutout.models import build_network
from cutout.models.catalog import find
from cutout.models.optimise import REWRITES, drop_training

CHECKPOINTS = ("rmbg-1.4", "birefnet-lite", "rmbg-2.0")
ROUNDS = 3


def run() -> None:
    """Measure every form, print and save the results."""
    tables, figures = [], {}
    for name in CHECKPOINTS:
        forms = all_forms(build_network(name))
        size = find(name).input_size
        pixels = torch.randn(1, 3, size, size)
        measured = {form: measure(network, pixels) for form, network in forms.items()}
        seconds = take_turns(name, forms, pixels)
        whole = seconds["plain"]
        rows = []
        for form, lap in seconds.items():
            gflop, peak = measured.get(form, ("", ""))
            rows.append([form, str(gflop), str(peak), f"{lap:.2f} s", f"{lap / whole:.2f}"])
        title = f"{name} at {size}², float32, batch 1, medians of {ROUNDS}; each line with those above it"
        tables.append(Table(title, ["form", "GFLOP", "peak MiB of activations", "time", "of plain"], rows))
        figures[name] = {
            form: {
                "gflop": measured[form][0] if form in measured else None,
                "peak_mib": measured[form][1] if form in measured else None,
                "median_s": round(lap, 3),
                "of_plain": round(lap / whole, 3),
            }
            for form, lap in seconds.items()
        }
    publish("rewrites", tables, {"rounds": ROUNDS, "networks": figures})


def all_forms(network: nn.Module) -> dict[str, nn.Module]:
    """Return the plain network and its form after each rewrite, skipping rewrites that do not change it."""
    network = network.eval().requires_grad_(False)
    drop_training(network)
    forms = {"plain": network}
    for rewrite in REWRITES:
        if rewrite is drop_training:
            continue
        before = list(forms.values())[-1]
        after = deepcopy(before)
        rewrite(after)
        if str(after) != str(before):
            forms[rewrite.__name__.replace("_", " ")] = after
    return forms


@torch.inference_mode()
def measure(network: nn.Module, pixels: Tensor) -> tuple[int, int]:
    """Return the GFLOP of one run and its peak memory of activations in MiB."""
    with FlopCounterMode(display=False) as counter:
        deepcopy(network).to("meta")(pixels.to("meta"))
    with PeakMemory() as peak:
        network(pixels)
    return round(counter.get_total_flops() / 1e9), round(peak.peak / 2**20)


@torch.inference_mode()
def take_turns(name: str, forms: dict[str, nn.Module], pixels: Tensor) -> dict[str, float]:
    """Time each form, and the last one in ONNX Runtime, once per round; return the medians in seconds."""
    last = list(forms.values())[-1]
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(last, Path(folder) / "graph.onnx", pixels.shape[-1])
        onnx = OnnxRunner(Path(folder) / "graph.onnx")
        runs: dict[str, Callable[[Tensor], Tensor]] = {**forms, "in ONNX Runtime": onnx.run}
        laps: dict[str, list[float]] = {form: [] for form in runs}
        for _ in range(ROUNDS):
            for form, run in runs.items():
                start = time.perf_counter()
                run(pixels)
                laps[form].append(time.perf_counter() - start)
                print(f"{name}, {form}: {laps[form][-1]:.2f} s", flush=True)
    return {form: median(seconds) for form, seconds in laps.items()}


class PeakMemory(TorchDispatchMode):
    """Dispatch mode that tracks the bytes of all live tensors created under it; `peak` is the maximum."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._held = 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        known = {id(leaf.untyped_storage()) for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if id(storage) not in known and storage not in self._seen:
                    self._seen.add(storage)
                    self._held += storage.nbytes()
                    weakref.finalize(storage, self._free, storage.nbytes())
        self.peak = max(self.peak, self._held)
        return out

    def _free(self, size: int) -> None:
        self._held -= size
