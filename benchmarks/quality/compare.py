"""The refined alpha against the enlarged mask, quickly, on chosen scenes: `python -m benchmarks.quality.compare`.

The mask is the true alpha, as soft as a good network's output. For each kind and size it prints the errors of the
enlarged mask with cleaned colours (raw), those of the refined alpha with cleaned colours, and their ratio.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.quality import recipe, scenes
from benchmarks.quality.layers import Bytes, Scene
from benchmarks.quality.measures import Error, mean, measure
from cutout.inference.imaging import decode

COLUMNS = ("edge", "gradient", "connectivity", "composite", "roughness", "fringe", "islands", "holes")


def main() -> None:
    """Measure the scenes named on the command line."""
    from benchmarks.quality import hard

    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality.compare", description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=list(hard.KINDS), choices=scenes.KINDS)
    parser.add_argument("--megapixels", nargs="+", type=float, default=[1.0])
    parser.add_argument("--seeds", type=int, default=4, help="scenes of each kind and size")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--mask", type=int, default=1024, help="the mask's side")
    parser.add_argument("--save", type=Path, help="a folder for pictures of the scenes' edges")
    options = parser.parse_args()
    print(f"{'kind':15} {'MP':>4} {'':8}" + "".join(f"{name:>13}" for name in COLUMNS))
    everything: list[tuple[Error, Error]] = []
    for kind in options.kinds:
        for megapixels in options.megapixels:
            pairs = []
            for seed in range(options.first_seed, options.first_seed + options.seeds):
                scene = scenes.make(kind, megapixels, seed)
                pairs.append(_compare(scene, options.mask, options.save, f"{megapixels:g}"))
            _print(kind, f"{megapixels:g}", pairs)
            everything += pairs
    _print("all", "", everything)


def _compare(scene: Scene, side: int, folder: Path | None, size: str) -> tuple[Error, Error]:
    rgb, mask = decode.decode(scene.photo).rgb, recipe.ideal_mask(scene, side)
    results = [recipe.METHODS[name](rgb, mask) for name in ("standard", "professional")]
    raw, refined = (measure(scene, *result) for result in results)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        ratio = refined.composite / raw.composite
        file = folder / f"{scene.name}-{size}MP-{ratio:.2f}.png"
        Image.fromarray(_crops(scene, rgb, [alpha for _, alpha in results])).save(file)
    return raw, refined


def _print(kind: str, size: str, pairs: list[tuple[Error, Error]]) -> None:
    raw, refined = (vars(mean([pair[index] for pair in pairs])) for index in (0, 1))
    rows = {
        "raw": raw,
        "refined": refined,
        "ratio": {key: refined[key] / (raw[key] or np.nan) for key in COLUMNS},
    }
    for name, values in rows.items():
        print(
            f"{kind:15} {size:>4} {name:8}" + "".join(f"{values[column]:13.2f}" for column in COLUMNS),
            flush=True,
        )


def _crops(scene: Scene, rgb: Bytes, alphas: list[Bytes], side: int = 300) -> Bytes:
    """Return the place where the last alpha is worst: the photo, the true alpha, and the others, enlarged twice."""
    wrong = np.abs(alphas[-1] / 255 - scene.alpha)
    sums = np.pad(wrong, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    side = min(side, *wrong.shape)
    window = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(np.argmax(window), window.shape)
    part = (slice(top, top + side), slice(left, left + side))
    true = np.rint(scene.alpha * 255).astype(np.uint8)
    tiles = [rgb[part], *(np.repeat(one[part][..., None], 3, 2) for one in (true, *alphas))]
    return np.concatenate(tiles, 1).repeat(2, 0).repeat(2, 1)


if __name__ == "__main__":
    main()
