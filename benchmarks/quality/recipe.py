"""The recipes alone: instead of a network's mask they get the true alpha, as soft as a good network's output.

Expected: `standard` improves the colour of the edge, `professional` its shape. Each method gets the same mask; methods
that only estimate colours get it enlarged.
"""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import cv2
import torch
from torch import Tensor

from benchmarks.quality import peers, scenes
from benchmarks.quality.layers import Bytes, Scene
from benchmarks.quality.measures import Error, mean, measure
from benchmarks.report import Table, publish
from cutout.inference.imaging import decode
from cutout.inference.matting import refinement
from cutout.inference.matting.mask import enlarge, to_levels

KINDS = ("hair", "fur", "defocus", "lace", "glass", "solid")
SIZES = (3.0, 7.0, 12.0)  # megapixels; one scene of each kind per size
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

# A photo, uint8 [H,W,3], and its mask → colours, uint8 [H,W,3], and alpha, uint8 [H,W].
Method = Callable[[Bytes, Tensor], tuple[Bytes, Bytes]]


def run() -> None:
    """Measure the recipes, print and save the results, and draw the plot."""
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

    overall = {
        name: mean([one for kind in by_kind.values() for one in kind]) for name, by_kind in errors.items()
    }
    times = {name: median(values) for name, values in seconds.items()}
    table = Table(
        f"Mean errors in thousandths over {len(KINDS) * len(SIZES)} scenes; time at {max(SIZES):g} megapixels,"
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
    _plot(overall, times)
    publish(
        "quality-recipe",
        [table, by_kind],
        {
            "errors": {
                name: {kind: vars(mean(errors[name][kind])) for kind in KINDS} | {"all": vars(overall[name])}
                for name in METHODS
            },
            "seconds": times,
        },
    )


def ideal_mask(scene: Scene, side: int = 1024) -> Tensor:
    """Return the scene's true alpha as a mask, float32 [1,1,side,side], blurred by a pixel."""
    method = cv2.INTER_AREA if min(scene.alpha.shape) >= side else cv2.INTER_LINEAR
    small = cv2.resize(scene.alpha, (side, side), interpolation=method)
    return torch.from_numpy(cv2.GaussianBlur(small, (0, 0), 1.0))[None, None]


def _enlarged(rgb: Bytes, mask: Tensor) -> Bytes:
    return to_levels(enlarge(mask, *rgb.shape[:2])).numpy()


def _cleaned(rgb: Bytes, alpha: Bytes) -> tuple[Bytes, Bytes]:
    return refinement.clean_colours(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy(), alpha


def _with_colours(estimate: Callable[[Bytes, Bytes], Bytes]) -> Method:
    def method(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
        alpha = _enlarged(rgb, mask)
        return estimate(rgb, alpha), alpha

    return method


def _basic(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return rgb, _enlarged(rgb, mask)


def _standard(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return _cleaned(rgb, _enlarged(rgb, mask))


def _professional(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return _cleaned(rgb, to_levels(refinement.refine_alpha(torch.from_numpy(rgb), mask)).numpy())


def _guided(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
    return _cleaned(rgb, peers.guided_filter(rgb, _enlarged(rgb, mask)))


def _but(method: Method, **settings: Any) -> Method:
    """Return the method with some constants of `refinement` replaced."""

    def changed(rgb: Bytes, mask: Tensor) -> tuple[Bytes, Bytes]:
        with mock.patch.multiple(refinement, **settings):
            return method(rgb, mask)

    return changed


# Methods named "tried" belong to no tier; they are ablations that show what each part contributes.
METHODS: dict[str, Method] = {
    "raw (basic)": _basic,
    "blur fusion": _with_colours(peers.blur_fusion),
    "pymatting": _with_colours(peers.multilevel),
    "guided filter + clean": _guided,
    "standard": _standard,
    "professional": _professional,
    "tried: colours at 1024": _but(_standard, COLOUR_SIDE=1024),
    "tried: colours, no stiffness": _but(_standard, COLOUR_STIFFNESS=0.01),
    "tried: lines, unequal softness": _but(_professional, MASK_BLUR=0.2),
    "tried: lines, narrow windows": _but(_professional, WINDOWS=(2,)),
    "tried: lines, wide windows": _but(_professional, WINDOWS=(8,)),
    "tried: lines, noise not weighed": _but(_professional, NOISE_FACTOR=0.0, TOLERANCE=0.0),
}


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
