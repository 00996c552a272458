"""Computed, not measured: how fast GPUs could be, from a count of what each kernel reads, writes and multiplies.

Needs no GPU. The networks run on shapes and the photos through the real engine, both on a pretended GPU
(`tests.pretend_gpu`), and every operation is counted (`benchmarks.counting`). A kernel takes as long as its bytes at
80 % of a card's bandwidth, or its products at 55 % of its rate, whichever is longer. "Before" is the network with
torch's ordinary operators, "after" as Cutout runs it on a GPU. Left out are the time to start a kernel, how well each is
written, and what the host does beside starting operations. On an H100 the networks reach three quarters of these rates.
"""

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import torch

from benchmarks import report
from benchmarks.counting import Count
from benchmarks.report import Table, publish
from cutout.inference.backends import runners
from cutout.inference.options import Options
from cutout.inference.tiers import SOLD, Tier
from cutout.models import build_network, gpu_kernels
from cutout.models.catalog import find
from cutout.models.optimise import optimise
from tests.pretend_engine import photo, pretended_engine
from tests.pretend_gpu import Call, pretended_gpu

BATCH = 8
FORMS = ("before", "after")
OF_BANDWIDTH, OF_PRODUCTS = 0.8, 0.55
# Time that the host needs to start an operation, with the interpreter shared by all photos: an H100's engine made 73
# refined photos of 2 megapixels a second, which took 890 operations each.
HOST_SECONDS = 15e-6
SIZES = {2: (1200, 1700), 12: (3000, 4000)}  # height and width by megapixels
NETWORKS = {tier: "rmbg-1.4" if tier == Tier.BASIC else "rmbg-2.0" for tier in SOLD}
GOALS = {"rmbg-1.4": 850, "rmbg-2.0": 140}  # photos/s of the network on an H100
WHOLE_GOALS = {"rmbg-1.4": 300, "rmbg-2.0": 110}  # from file to file at 2 megapixels
MEASURED = "network-nvidia-h100-80gb-hbm3.json", "graph/float16/8"


@dataclass(frozen=True)
class Card:
    """A GPU by its published figures: bytes and dense float16 FLOP a second, and bytes a second to the host."""

    bandwidth: float
    products: float
    link: float
    source: str

    def seconds(self, count: Count) -> float:
        return count.seconds(OF_BANDWIDTH * self.bandwidth, OF_PRODUCTS * self.products)


# Products are added up in float32, which a GeForce does at half the rate. Of a link, 80 % of PCIe ×16.
CARDS = {
    "H100": Card(3.35e12, 989e12, 50e9, "NVIDIA H100 datasheet, SXM"),
    "RTX 4090": Card(1.008e12, 165.2e12, 25e9, "NVIDIA Ada GPU architecture, appendix A"),
    "L4": Card(300e9, 121e12, 25e9, "NVIDIA L4 datasheet, without sparsity"),
    "T4": Card(320e9, 65e12, 12.5e9, "NVIDIA T4 product brief"),
}


@dataclass(frozen=True)
class PhotoWork:
    """What the engine does for one photo outside of the network: how many looks, and what they and the rest cost."""

    looks: int
    count: Count
    up: int  # bytes to the GPU
    down: int


def run() -> None:
    """Count and compute everything, print and save the results."""
    if not gpu_kernels.INSTALLED:
        raise SystemExit("This counts Triton's kernels: pip install triton")
    works = {(tier, size): count_photo(tier, size) for size in SIZES for tier in SOLD}
    tables = [
        cards_table(),
        networks_table(),
        *(groups_table(name) for name in GOALS),
        photos_table(works),
        *(whole_table(works, size) for size in SIZES),
    ]
    publish("roofline", tables, figures(works))


@cache
def count_network(name: str, *, after: bool) -> Count:
    """Count one run of a network at its own size and `BATCH` photos."""
    with torch.device("meta"):
        network = optimise(build_network(name))
    count = Count()
    with ExitStack() as stack:
        stack.enter_context(pretended_gpu("meta", count.note))
        stack.enter_context(gpu_kernels.only(on=after))
        dtype = torch.float16
        if not after:
            stack.enter_context(mock.patch.object(runners, "fit_to_gpu", lambda network: network))
            # As large as float16, but cuDNN and cuBLAS are not asked for what the networks leave to them in that.
            dtype = torch.bfloat16
        runner = runners.TorchRunner(network, torch.device("cuda"), dtype=dtype)
        size = find(name).input_size
        pixels = torch.empty(BATCH, 3, size, size, device="cuda")
        count.costs.clear()
        runner.run(pixels)
    return count


def count_photo(tier: Tier, megapixels: int) -> PhotoWork:
    """Count what the engine does for a photo of a disc, with a mask of 1024²."""
    count, looks, moved = Count(), 0, {"upload": 0, "download": 0}

    def note(call: Call) -> None:
        nonlocal looks
        if call.stage == "photo":
            count.note(call)
            if call.name in moved:
                moved[call.name] += call.out.numel() * call.out.element_size()
            looks += call.name == "aminmax"  # once for each mask

    with pretended_engine(1024, note) as engine:
        count.costs.clear()
        moved.update(upload=0, download=0)
        looks = 0
        engine.remove(photo(*SIZES[megapixels]), Options(tier=tier))
    return PhotoWork(looks, count, moved["upload"], moved["download"])


def cards_table() -> Table:
    return Table(
        "Computed, not measured, as is all that follows. Published figures of the cards",
        ["card", "TB/s", "TFLOP/s, float16", "source"],
        [
            [name, f"{card.bandwidth / 1e12:.3g}", f"{card.products / 1e12:.4g}", card.source]
            for name, card in CARDS.items()
        ],
    )


def networks_table() -> Table:
    measured = measured_rates()
    rows = []
    for name, goal in GOALS.items():
        for form in FORMS:
            count = count_network(name, after=form == "after")
            rates = {card: BATCH / about.seconds(count) for card, about in CARDS.items()}
            row = [name, form, str(count.kernels), gigabytes(count), f"{count.flop / BATCH / 1e9:,.0f}"]
            row += [f"{rate:.3g}" for rate in rates.values()]
            if form == "after":
                row += [f"{measured[name]:.3g}" if name in measured else "", str(goal)]
                row.append(f"{rates['H100'] / goal:.2f}")
            rows.append(row)
    title = f"Networks alone, batch {BATCH}: GB and GFLOP a photo, and photos a second at most"
    columns = ["network", "form", "kernels", "GB", "GFLOP", *CARDS, "measured on H100", "goal, H100"]
    return Table(title, [*columns, "of goal"], rows)


def measured_rates() -> dict[str, float]:
    """Return the photos a second that were measured on an H100, by network; without a result none."""
    file, case = report.RESULTS / MEASURED[0], MEASURED[1]
    if not file.exists():
        return {}
    networks = json.loads(file.read_text())["networks"]
    return {name: networks[name]["cases"][case]["images_per_s"] for name in networks}


def groups_table(name: str) -> Table:
    before, after = count_network(name, after=False), count_network(name, after=True)
    rows = []
    for group in dict.fromkeys((*after.groups, *before.groups)):
        row = [group]
        for count in (before.of_group(group), after.of_group(group)):
            row += [str(count.kernels), gigabytes(count), f"{count.flop / BATCH / 1e9:,.0f}", on_h100(count)]
        rows.append(row)
    figures = ("kernels", "GB", "GFLOP", "ms")
    columns = ["part", *(f"{form}: {figure}" for form in FORMS for figure in figures)]
    return Table(f"Where the time of {name} goes, a photo, ms on an H100", columns, rows)


def photos_table(works: dict[tuple[Tier, int], PhotoWork]) -> Table:
    rows = []
    for (tier, size), work in works.items():
        waits = ", ".join(f"{times} {why}" for why, times in Counter(work.count.waits).most_common())
        row = [tier, str(size), str(work.looks), f"{work.count.operations:,}", f"{work.count.kernels:,}"]
        rows.append([*row, f"{work.count.bytes / 1e9:.2f}", str(len(work.count.waits)), waits])
    title = "A photo's own work, outside of the network: operations that the host starts, and where it waits"
    return Table(title, ["tier", "MP", "looks", "operations", "kernels", "GB", "waits", "which"], rows)


def whole_table(works: dict[tuple[Tier, int], PhotoWork], size: int) -> Table:
    rows = []
    for tier in SOLD:
        for name, card in CARDS.items():
            parts = bounds(works[tier, size], tier, card)
            slowest = max(parts, key=lambda part: parts[part])
            goal = str(WHOLE_GOALS[NETWORKS[tier]]) if size == 2 and name == "H100" else ""
            row = [tier, name, *(f"{1000 * seconds:.3g}" for seconds in parts.values())]
            rows.append([*row, f"{1 / parts[slowest]:.3g}", slowest, goal])
    title = (
        f"From file to file at {size} megapixels, ms a photo, with one process and cores enough for decoding and"
        f" encoding; host: {HOST_SECONDS * 1e6:.0f} µs for each operation"
    )
    return Table(title, ["tier", "card", "kernels", "link", "host", "photos/s", "bound by", "goal"], rows)


def bounds(work: PhotoWork, tier: Tier, card: Card) -> dict[str, float]:
    """Return the seconds for each photo of what works side by side: the card, its link, and the interpreter."""
    network = card.seconds(count_network(NETWORKS[tier], after=True)) / BATCH
    return {
        "kernels": work.looks * network + card.seconds(work.count),
        "link": max(work.up, work.down) / card.link,
        "host": work.count.operations * HOST_SECONDS,
    }


def gigabytes(count: Count) -> str:
    return f"{count.bytes / BATCH / 1e9:.2f}"


def on_h100(count: Count) -> str:
    return f"{1000 * CARDS['H100'].seconds(count) / BATCH:.2f}"


def figures(works: dict[tuple[Tier, int], PhotoWork]) -> dict[str, Any]:
    """Return what is saved beside the tables."""
    return {
        "computed": True,
        "networks": {name: {form: of_network(name, form) for form in FORMS} for name in GOALS},
        "photos": {
            f"{tier}/{size}": {"operations": work.count.operations, "waits": len(work.count.waits)}
            for (tier, size), work in works.items()
        },
    }


def of_network(name: str, form: str) -> dict[str, Any]:
    count = count_network(name, after=form == "after")
    return {
        "kernels": count.kernels,
        "gb": round(count.bytes / BATCH / 1e9, 3),
        "gflop": round(count.flop / BATCH / 1e9),
        "photos_per_s": {card: round(BATCH / about.seconds(count), 1) for card, about in CARDS.items()},
    }
