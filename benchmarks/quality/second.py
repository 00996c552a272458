"""The second look against the first, over scenes of all kinds, those included in which the network fails.

What its checks are for is seen by leaving them out: then whatever the network says of the box is taken.
"""

from unittest import mock

import numpy as np

from benchmarks.quality import scenes
from benchmarks.quality.measures import measure, overlap
from benchmarks.quality.whole import FOUND, Network
from benchmarks.report import Table, publish
from inference import photo, second_look
from inference.matting import cut_out
from inference.tiers import Recipe

# Every third subject is small: that is what the second look is for.
KINDS = ("small", "solid", "hair", "small", "fur", "defocus", "small", "lace", "glass", "text")
SCENES = 100
SEED = 300
MEGAPIXELS = 3.0


def run() -> None:
    """Measure, print and save."""
    network = Network()
    changes: dict[str, dict[str, list[float]]] = {
        way: {"found": [], "not found": []} for way in ("checked", "unchecked")
    }
    believed = 0
    for number in range(SCENES):
        scene = scenes.make(KINDS[number % len(KINDS)], MEGAPIXELS, SEED + number)
        picture = photo.decode(scene.photo)
        first = network.look(picture)
        box = None if first is None else second_look.box_around(first, picture.height, picture.width)
        second = None if box is None else network.look(box.of(picture))
        if first is None or second is None:
            continue
        looks = {id(picture): first}

        def error(recipe: Recipe) -> float:
            cut = cut_out(picture, recipe, lambda part: looks.get(id(part), second))  # noqa: B023
            return measure(scene, cut.rgb, cut.alpha).mae  # noqa: B023

        once, checked = error(Recipe.REFINED), error(Recipe.SECOND_LOOK)
        with mock.patch.object(second_look, "merge", lambda first, second, *_: second):
            unchecked = error(Recipe.SECOND_LOOK)
        group = "found" if overlap(scene, first[0, 0].cpu().numpy()) >= FOUND else "not found"
        changes["checked"][group].append(checked / once - 1)
        changes["unchecked"][group].append(unchecked / once - 1)
        believed += checked != once
        print(f"{scene.name}: {once:.2f} → {checked:.2f}, unchecked {unchecked:.2f}")  # noqa: T201

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


def _summary(values: list[float]) -> list[float]:
    return [float(np.min(values)), float(np.mean(values)), float(np.max(values))] if values else []
