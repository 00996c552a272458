"""The refined alpha against the enlarged mask, on chosen scenes: `python -m benchmarks quality-compare`.

The mask is the true alpha, as soft as a good network's output. *Raw* is that mask enlarged, *refined* the alpha of
`professional`, both with cleaned colours; *ratio* is the errors of the second over those of the first.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality import hard, methods, scenes
from benchmarks.quality.layers import Bytes, Scene
from benchmarks.quality.measures import Error, mean, measure
from benchmarks.report import Table, as_markdown
from cutout.inference.imaging import decode

Pair = tuple[Error, Error]  # raw and refined

COLUMNS = {
    "mae": "MAE",
    "sad": "SAD",
    "edge": "edge",
    "gradient": "gradient",
    "connectivity": "connectivity",
    "composite": "composite",
    "colour": "edge colour",
    "roughness": "roughness",
    "fringe": "fringe",
    "islands": "islands",
    "holes": "holes",
}
UNITS = (
    "SAD and connectivity in thousands of pixels; roughness and fringe are ratios, 1 is the truth; islands and holes per"
    " 1,000 pixels of contour; the others in thousandths"
)
CROP = 300


def main(arguments: Sequence[str]) -> None:
    """Measure the scenes named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality-compare", description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(hard.KINDS), choices=scenes.KINDS)
    parser.add_argument("--megapixels", nargs="+", type=float, default=[1.0])
    parser.add_argument("--seeds", type=int, default=4, help="scenes of each kind and size")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--mask", type=int, default=1024, help="the side of the mask, pixels")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of each scene's worst place")
    chosen = parser.parse_args(arguments)
    groups: dict[str, list[Pair]] = {}
    for kind in chosen.kinds:
        for megapixels in chosen.megapixels:
            name = f"{kind}, {megapixels:g} MP"
            for seed in range(chosen.first_seed, chosen.first_seed + chosen.seeds):
                scene = scenes.make(kind, megapixels, seed)
                prefix = f"{megapixels:g}MP-"
                groups.setdefault(name, []).append(pair(scene, chosen.mask, chosen.pictures, prefix))
            print(f"{name} measured", flush=True)
    everything = [one for of_group in groups.values() for one in of_group]
    print(as_markdown(table(f"Mask of {chosen.mask}². {UNITS}", groups | {"all": everything})))


def pair(scene: Scene, side: int = 1024, folder: Path | None = None, prefix: str = "") -> Pair:
    """Measure raw and refined with the softened truth as a mask, and save a picture of the worst place if asked to."""
    rgb, mask = decode.decode(scene.photo).rgb, methods.ideal_mask(scene, side)
    results = [methods.METHODS[name](rgb, mask) for name in ("standard", "professional")]
    raw, refined = (measure(scene, *result) for result in results)
    if folder is not None:
        ratio = refined.composite / max(raw.composite, 1e-9)
        save(folder / f"{prefix}{scene.name}-{ratio:.2f}.png", scene, rgb, [alpha for _, alpha in results])
    return raw, refined


def table(title: str, groups: Mapping[str, Sequence[Pair]]) -> Table:
    """Return the mean errors of each group: a row each for raw, refined and their ratio."""
    rows = []
    for name, pairs in groups.items():
        raw, refined = (vars(mean([one[index] for one in pairs])) for index in (0, 1))
        label = f"{name} ({len(pairs)})"
        for step, values in (("raw", raw), ("refined", refined)):
            rows.append([label, step, *(_number(values[column]) for column in COLUMNS)])
        rows.append([label, "ratio", *(_ratio(refined[column], raw[column]) for column in COLUMNS)])
    return Table(title, ["scenes", "", *COLUMNS.values()], rows)


def save(file: Path, scene: Scene, rgb: Bytes, alphas: Sequence[Bytes]) -> None:
    """Save the place where the last alpha is worst: the photo, the true alpha, and the others, enlarged twice."""
    wrong = np.abs(alphas[-1] / 255 - scene.alpha)
    side = min(CROP, *wrong.shape)
    sums = np.pad(wrong, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    window = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(np.argmax(window), window.shape)
    part = (slice(top, top + side), slice(left, left + side))
    true = np.rint(scene.alpha * 255).astype(np.uint8)
    tiles = [rgb[part], *(np.repeat(one[part][..., None], 3, 2) for one in (true, *alphas))]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(tiles, 1).repeat(2, 0).repeat(2, 1)).save(file)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _ratio(value: float, base: float) -> str:
    return f"{value / base:.2f}" if base > 0 else "–"
