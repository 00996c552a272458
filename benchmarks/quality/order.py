"""The order of the tiers on random scenes: no tier's picture may be worse than that of the tier below it.

The mask is the true alpha, as soft as a good network's output; so is that of the second look. A tier is worse if its
composite error is more than 2 % above that of the tier below.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality import compare, methods, scenes
from benchmarks.quality.layers import Bytes, Scene
from benchmarks.quality.measures import composite
from benchmarks.report import Table, publish
from cutout.inference.imaging import decode
from cutout.inference.matting import crop_refinement
from cutout.inference.matting.pipeline import cut_out, see
from cutout.inference.tiers import SOLD, TIERS, Tier

SCENES = 200
SEED = 1000
KINDS = tuple(scenes.KINDS)
SIZES = (0.3, 0.3, 1.0, 1.0, 1.0, 3.0, 3.0, 7.0)  # megapixels, each as likely as it is often here
TOLERANCE = 0.02


def main(arguments: Sequence[str]) -> None:
    """Check as many scenes as the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks quality-order", description=__doc__)
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the exceptions")
    chosen = parser.parse_args(arguments)
    run(chosen.scenes, chosen.pictures)


def run(count: int = SCENES, pictures: Path | None = None) -> None:
    """Check the order, print and save the exceptions; raise SystemExit if there are any."""
    rng = np.random.default_rng(SEED)
    ratios: dict[Tier, list[float]] = {tier: [] for tier in SOLD[1:]}
    rows = []
    for number in range(count):
        kind, megapixels = str(rng.choice(KINDS)), float(rng.choice(SIZES))
        scene = scenes.make(kind, megapixels, SEED + number)
        rgb = decode.decode(scene.photo).rgb
        results = tiers(scene, rgb)
        errors = {tier: composite(scene, *result) for tier, result in results.items()}
        for below, tier in pairwise(SOLD):
            ratios[tier].append(errors[tier] / max(errors[below], 1e-9))
            if ratios[tier][-1] <= 1 + TOLERANCE:
                continue
            rows.append([scene.name, f"{megapixels:g}", below.value, tier.value])
            rows[-1] += [f"{errors[below]:.1f}", f"{errors[tier]:.1f}", f"{ratios[tier][-1]:.2f}"]
            print(*rows[-1], flush=True)
            if pictures is not None:
                alphas = [results[one][1] for one in (below, tier)]
                compare.save(pictures / f"{scene.name}-{megapixels:g}MP-{tier.value}.png", scene, rgb, alphas)
    rows.sort(key=lambda row: -float(row[-1]))
    summary = Table(
        f"Composite error over that of the tier below, {count} random scenes",
        ["tier", "mean", "worst", "worse than the tier below by more than 2 %"],
        [
            [tier.value, f"{np.mean(one):.2f}", f"{np.max(one):.2f}", str(sum(np.array(one) > 1 + TOLERANCE))]
            for tier, one in ratios.items()
        ],
    )
    columns = ["scene", "megapixels", "tier below", "tier", "error below", "error", "ratio"]
    exceptions = Table("The exceptions, composite error in thousandths", columns, rows)
    figures = {"scenes": count, "ratios": {tier.value: one for tier, one in ratios.items()}}
    publish("quality-order", [summary, exceptions], figures)
    if rows:
        raise SystemExit(f"In {len(rows)} cases, a tier is worse than the tier below it.")


def tiers(scene: Scene, rgb: Bytes) -> dict[Tier, tuple[Bytes, Bytes]]:
    """Return the colours and the alpha of each tier, with the softened truth as the network's mask."""
    photo, first = torch.from_numpy(rgb), methods.ideal_mask(scene)
    box = crop_refinement.box_around(first, *rgb.shape[:2])

    def look(part: Tensor) -> Tensor:
        if part is photo or box is None:
            return first
        return methods.softened(scene.alpha[box.rows, box.columns])

    results: dict[Tier, tuple[Bytes, Bytes]] = {}
    for tier in SOLD:
        if box is None and TIERS[tier].recipe.looks_twice:
            results[tier] = results[Tier.PROFESSIONAL]
            continue
        recipe = TIERS[tier].recipe
        cut = cut_out(photo, None, recipe, see(photo, recipe, look))
        results[tier] = (cut.rgb.numpy(), cut.alpha.numpy())
    return results
