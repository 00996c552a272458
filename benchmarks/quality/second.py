"""The second look against the first, over scenes of all kinds, those included in which the network fails."""

import numpy as np

from benchmarks.quality import scenes
from benchmarks.quality.measures import measure, overlap
from benchmarks.quality.whole import FOUND, Network
from benchmarks.report import Table, publish
from inference import photo
from inference.tiers import Tier

SCENES = 100
SEED = 300
MEGAPIXELS = 3.0
LOOKS = (Tier.PROFESSIONAL, Tier.INDUSTRY)


def run() -> None:
    """Measure, print and save."""
    network = Network()
    kinds = list(scenes.KINDS)
    changes: dict[str, list[float]] = {"found": [], "not found": []}
    same = 0
    for number in range(SCENES):
        scene = scenes.make(kinds[number % len(kinds)], MEGAPIXELS, SEED + number)
        picture = photo.decode(scene.photo)
        first = network.look(picture)
        if first is None:
            same += 1
            continue
        once, twice = (
            measure(scene, rgb, alpha).mae for rgb, alpha in network.tiers(picture, first, LOOKS).values()
        )
        if once == twice:
            same += 1
            continue
        found = overlap(scene, first[0, 0].cpu().numpy()) >= FOUND
        changes["found" if found else "not found"].append(twice / once - 1)
        print(scene.name, f"{once:.2f} → {twice:.2f}")  # noqa: T201

    rows = [
        [name, str(len(values)), *(f"{100 * value:+.1f} %" for value in _summary(values))]
        for name, values in changes.items()
    ]
    rows.append(["no second look, or not believed", str(same)])
    table = Table(
        f"Change of MAE from one look to two, {network.name}, {SCENES} scenes of {MEGAPIXELS:g} megapixels",
        ["subject", "scenes", "best", "median", "worst"],
        rows,
    )
    publish("quality-second-look", [table], {"network": network.name, "changes": changes, "same": same})


def _summary(values: list[float]) -> list[float]:
    return [float(np.min(values)), float(np.median(values)), float(np.max(values))] if values else []
