"""Plots of results for docs/performance.md, drawn from the results' JSON; they need matplotlib."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# A fixed salt makes the SVG files reproducible.
mpl.rcParams |= {"svg.hashsalt": "cutout", "svg.fonttype": "none"}
INK = {"decode": "#4c78a8", "wait": "#d9d9d9", "network": "#f58518", "edges": "#54a24b", "encode": "#b279a2"}


def draw(result: dict[str, Any], file: Path) -> bool:
    """Draw a result to an SVG file. Return False if there is no plot for this benchmark."""
    picture = PICTURES.get(result["benchmark"])
    if picture is None:
        return False
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    picture(result, figure)
    figure.suptitle(f"{result['benchmark']}: {result['device']}, {result['date'][:10]}", fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")
    return True


def _engine(result: dict[str, Any], figure: Figure) -> None:
    """Draw the share of each stage in a photo's time, labelled with photos per second and the limiting stage."""
    runs = dict(reversed(result["runs"].items()))
    axes = figure.subplots()
    left = [0.0] * len(runs)
    for stage, ink in INK.items():
        shares = [run["stages"][stage] / sum(run["stages"].values()) for run in runs.values()]
        axes.barh(list(range(len(runs))), shares, left=left, color=ink, label=stage)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    for place, run in enumerate(runs.values()):
        axes.text(1.01, place, f"{run['photos_per_s']:.3g}/s, {run['limit']}", va="center", fontsize=8)
    axes.set_yticks(range(len(runs)), [f"{name.replace('/', ', ')} MP" for name in runs], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of a photo's time, waiting for its turn included")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.17), ncols=len(INK), frameon=False, fontsize=8)


def _network(result: dict[str, Any], figure: Figure) -> None:
    """Draw photos per second for each case, one panel per network."""
    panels = figure.subplots(1, len(result["networks"]), squeeze=False)[0]
    for axes, (name, network) in zip(panels, result["networks"].items(), strict=True):
        cases = dict(reversed(network["cases"].items()))
        rates = [case["images_per_s"] for case in cases.values()]
        bars = axes.barh(list(range(len(cases))), rates, color=INK["network"])
        labels = [
            f" {rate:.3g} ({case['share_of_matmul']:.0%})"
            for rate, case in zip(rates, cases.values(), strict=True)
        ]
        axes.bar_label(bars, labels, fontsize=8)
        axes.set_yticks(range(len(cases)), [case.replace("/", ", ") for case in cases], fontsize=8)
        axes.set_xlim(0, 1.35 * max(rates))
        axes.set_xlabel(f"{name}: photos/s (share of the matmul rate)", fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)


PICTURES: dict[str, Callable[[dict[str, Any], Figure], None]] = {"engine": _engine, "network": _network}
