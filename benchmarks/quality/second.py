"""The second look compared with the first, over scenes of all kinds, including those in which the network fails.

The effect of the checks on the second look is shown by also measuring without them: then the network's mask of the
box is always used.
"""

from unittest import mock

import numpy as np
import torch
from torch import Tensor

from benchmarks.quality import scenes
from benchmarks.quality.layers import Scene
from benchmarks.quality.measures import measure, overlap
from benchmarks.quality.whole import FOUND, Network
from benchmarks.report import Table, publish
from cutout.inference.imaging import decode
from cutout.inference.matting import crop_refinement
from cutout.inference.matting.pipeline import cut_out, see
from cutout.inference.tiers import Recipe

# Every third subject is small, because the second look is meant for small subjects.
KINDS = ("small", "solid", "hair", "small", "fur", "defocus", "small", "lace", "glass", "text")
SCENES = 100
SEED = 300
MEGAPIXELS = 3.0


def run() -> None:
    """Measure both ways, print and save the results."""
    network = Network()
    changes: dict[str, dict[str, list[float]]] = {
        way: {"found": [], "not found": []} for way in ("checked", "unchecked")
    }
    believed = 0
    for number in range(SCENES):
        scene = scenes.make(KINDS[number % len(KINDS)], MEGAPIXELS, SEED + number)
        rgb = torch.from_numpy(decode.decode(scene.photo).rgb)
        first = network.look(rgb)
        box = None if first is None else crop_refinement.box_around(first, *rgb.shape[:2])
        second = None if box is None else network.look(rgb[box.rows, box.columns].contiguous())
        if first is None or second is None:
            continue
        seen = (scene, rgb, first, second)
        once, checked = _error(Recipe.REFINED, *seen), _error(Recipe.SECOND_LOOK, *seen)
        with mock.patch.object(crop_refinement, "merge", lambda first, second, *_: second):
            unchecked = _error(Recipe.SECOND_LOOK, *seen)
        group = "found" if overlap(scene, first[0, 0].cpu().numpy()) >= FOUND else "not found"
        changes["checked"][group].append(checked / once - 1)
        changes["unchecked"][group].append(unchecked / once - 1)
        believed += checked != once
        print(f"{scene.name}: {once:.2f} → {checked:.2f}, unchecked {unchecked:.2f}")

    rows = [
        [
            f"{way}, subject {group}",
            str(len(values)),
            *(f"{100 * value:+.1f} %" for value in _summary(values)),
        ]
        for way, groups in changes.items()
        for group, values in groups.items()
    ]
    looked = sum(len(values) for values in changes["checked"].values())
    table = Table(
        f"Change of MAE from one look to two, {network.name}, {SCENES} scenes of {MEGAPIXELS:g} megapixels:"
        f" {looked} looked at again, {believed} times believed",
        ["", "scenes", "best", "mean", "worst"],
        rows,
    )
    publish(
        "quality-second-look", [table], {"network": network.name, "changes": changes, "believed": believed}
    )


def _error(recipe: Recipe, scene: Scene, rgb: Tensor, first: Tensor, second: Tensor) -> float:
    """Return the MAE of a recipe whose first look gets the mask `first` and whose second look gets `second`."""
    seen = see(rgb, recipe, lambda part: first if part is rgb else second)
    cut = cut_out(rgb, None, recipe, seen)
    return measure(scene, cut.rgb.numpy(), cut.alpha.numpy()).mae


def _summary(values: list[float]) -> list[float]:
    return [float(np.min(values)), float(np.mean(values)), float(np.max(values))] if values else []
