"""The recipes alone: instead of a network's mask they get the true alpha, as soft as a good network's output.

Expected: `standard` improves the colour of the edge, `professional` its shape. Each method gets the same mask; methods
that only estimate colours get it enlarged.
"""

import time
from pathlib import Path
from statistics import median

from benchmarks.quality import compare, hard, scenes
from benchmarks.quality.compare import Pair
from benchmarks.quality.measures import Error, mean, measure
from benchmarks.quality.methods import METHODS, ideal_mask
from benchmarks.report import Table, publish
from cutout.inference.imaging import decode

KINDS = ("hair", "fur", "defocus", "lace", "glass", "solid")
SIZES = (3.0, 7.0, 12.0)  # megapixels; one scene of each kind per size
HARD_SIZES = (0.3, 1.0, 3.0, 12.0)
SEED = 100  # the methods were tuned on seeds below 10
FRONTIER = Path(__file__).parents[2] / "docs/images/quality-frontier.png"

# Offsets of labels from their points, in typographic points, where the default position would overlap.
LABELS = {
    "standard": (7, -11),
    "tried: colours, no stiffness": (2, 8),
    "professional": (7, -8),
    "tried: lines, noise not weighed": (7, 5),
    "tried: lines, wide windows": (-7, 4),
    "tried: lines, narrow windows": (-7, -6),
    "blur fusion": (7, 2),
}


def run() -> None:
    """Measure the recipes, print and save the results, and draw the plot."""
    errors, seconds = _soft_scenes()
    overall = {
        name: mean([one for kind in by_kind.values() for one in kind]) for name, by_kind in errors.items()
    }
    times = {name: median(values) for name, values in seconds.items()}
    table = Table(
        f"Mean errors in thousandths over {len(KINDS) * len(SIZES)} soft scenes; time at {max(SIZES):g} megapixels,"
        " with enlarging the mask",
        ["method", "MAE", "gradient", "composite", "edge colour", "time"],
        [
            [name, *_numbers(one.mae, one.gradient, one.composite, one.colour), f"{times[name]:.2f} s"]
            for name, one in overall.items()
        ],
    )
    by_kind = Table(
        "MAE / gradient / composite / edge colour by kind",
        ["method", *KINDS],
        [[name, *(_joined(mean(kinds[kind])) for kind in KINDS)] for name, kinds in errors.items()],
    )
    soft_pairs = {
        (kind, size): (errors["standard"][kind][number], errors["professional"][kind][number])
        for kind in KINDS
        for number, size in enumerate(SIZES)
    }
    hard_pairs = _hard_scenes()
    _plot(overall, times)
    publish(
        "quality-recipe",
        [table, by_kind, _groups(soft_pairs, hard_pairs), _kinds(hard_pairs)],
        {
            "errors": {
                name: {kind: vars(mean(errors[name][kind])) for kind in KINDS} | {"all": vars(overall[name])}
                for name in METHODS
            },
            "hard": {
                f"{kind}, {size:g} MP": {"standard": vars(raw), "professional": vars(refined)}
                for (kind, size), (raw, refined) in hard_pairs.items()
            },
            "seconds": times,
        },
    )


def _soft_scenes() -> tuple[dict[str, dict[str, list[Error]]], dict[str, list[float]]]:
    """Return the errors of each method by kind, in the order of the sizes, and its times at the largest size."""
    errors: dict[str, dict[str, list[Error]]] = {name: {kind: [] for kind in KINDS} for name in METHODS}
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    for kind in KINDS:
        for number, megapixels in enumerate(SIZES):
            scene = scenes.make(kind, megapixels, SEED + number)
            rgb, mask = decode.decode(scene.photo).rgb, ideal_mask(scene)
            for name, method in METHODS.items():
                start = time.perf_counter()
                colours, alpha = method(rgb, mask)
                if megapixels == max(SIZES):
                    seconds[name].append(time.perf_counter() - start)
                errors[name][kind].append(measure(scene, colours, alpha))
            print(scene.name, flush=True)
    return errors, seconds


def _hard_scenes() -> dict[tuple[str, float], Pair]:
    """Return the errors of `standard` and `professional` by kind and size."""
    pairs = {}
    for kind in hard.KINDS:
        for number, megapixels in enumerate(HARD_SIZES):
            scene = scenes.make(kind, megapixels, SEED + number)
            pairs[kind, megapixels] = compare.pair(scene)
            print(scene.name, flush=True)
    return pairs


def _groups(soft: dict[tuple[str, float], Pair], hard: dict[tuple[str, float], Pair]) -> Table:
    """Return the errors of soft and hard kinds, of all sizes and by size."""
    groups: dict[str, list[Pair]] = {}
    for name, pairs in (("soft", soft), ("hard", hard)):
        groups[name] = list(pairs.values())
        for (_, size), one in pairs.items():
            groups.setdefault(f"{name}, {size:g} MP", []).append(one)
    return compare.table(f"By group; raw is `standard`, refined is `professional`. {compare.UNITS}", groups)


def _kinds(pairs: dict[tuple[str, float], Pair]) -> Table:
    by_kind: dict[str, list[Pair]] = {}
    for (kind, _), one in pairs.items():
        by_kind.setdefault(kind, []).append(one)
    return compare.table("Hard kinds, all sizes together", by_kind)


def _numbers(*values: float) -> list[str]:
    return [f"{value:.1f}" for value in values]


def _joined(one: Error) -> str:
    return f"{one.mae:.2f} / {one.gradient:.1f} / {one.composite:.1f} / {one.colour:.0f}"


def _plot(overall: dict[str, Error], times: dict[str, float]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110)
    for name, one in overall.items():
        colour = "#1a7f37" if name in ("raw (basic)", "standard", "professional") else "#777777"
        place = (times[name], one.composite)
        axes.scatter(*place, color=colour, zorder=2)
        axes.annotate(
            name,
            place,
            xytext=LABELS.get(name, (7, -3)),
            textcoords="offset points",
            fontsize=8,
            color=colour,
            ha="right" if LABELS.get(name, (0, 0))[0] < 0 else "left",
        )
    axes.set(
        xlim=(0, 1.45 * max(times.values())),
        ylim=(0, None),
        xlabel=f"seconds at {max(SIZES):g} megapixels",
        ylabel="error of the edge on black, white and green, thousandths",
        title="Error against time; left and low is better",
    )
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(FRONTIER)
