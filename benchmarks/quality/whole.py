"""The tiers end to end, with this host's network, over scenes whose subject the network finds."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality import compare, scenes
from benchmarks.quality.layers import Bytes, Colour, Scene
from benchmarks.quality.measures import Error, mean, measure, overlap, saliency
from benchmarks.report import Table, publish
from cutout.app.config import settings
from cutout.inference.imaging import compositing, decode
from cutout.inference.matting.mask import find_subject, to_pixels
from cutout.inference.matting.pipeline import cut_out, see
from cutout.inference.opening import open_engine
from cutout.inference.tiers import SOLD, TIERS, Tier

SOFT_KINDS = ("hair", "fur", "defocus", "lace", "solid", "small")
HARD_KINDS = ("bottle", "label", "knit", "wire")
KINDS = (*SOFT_KINDS, *HARD_KINDS)
SIZES = (3.0, 7.0, 12.0)
SEEDS = range(200, 230)
FOUND = 0.8  # minimum intersection over union with the ground truth
WANTED = 3  # scenes of each kind

SHEET = Path(__file__).parents[2] / "docs/images/quality-tiers.jpg"
CROP = 300
GREEN = (0, 177, 64)
PRODUCT = "label"  # the kind that is shown on white and black too
PRODUCT_GROUNDS = ((255, 255, 255), (0, 0, 0), GREEN)


# The errors of each tier on one scene, with S-measure and weighted F.
Measured = dict[Tier, tuple[Error, tuple[float, float]]]


class Network:
    """The checkpoint that serves `basic` on this host, used for all tiers, so that only the recipes differ."""

    def __init__(self) -> None:
        engine = open_engine(settings.load().models_folder, tiers=[Tier.BASIC])
        self._serving = engine.serving[Tier.BASIC]
        self.name = self._serving.choice.checkpoint.name

    def look(self, rgb: Tensor) -> Tensor | None:
        checkpoint, runner = self._serving.choice.checkpoint, self._serving.runner
        return find_subject(runner.run(to_pixels(rgb, checkpoint)), checkpoint)

    def tiers(self, rgb: Tensor, first: Tensor) -> dict[Tier, tuple[Bytes, Bytes]]:
        """Cut out a photo in every tier, with the same first look for all."""
        results = {}
        for tier in SOLD:
            recipe = TIERS[tier].recipe
            seen = see(rgb, recipe, lambda part: first if part is rgb else self.look(part))
            cut = cut_out(rgb, None, recipe, seen)
            results[tier] = (cut.rgb.numpy(), cut.alpha.numpy())
        return results


def run() -> None:
    """Measure the tiers, print and save the results, and draw the contact sheet."""
    network = Network()
    found, looked_at, rows = _measured(network)
    _save_sheet(rows)
    groups = {"soft": SOFT_KINDS, "hard": HARD_KINDS}
    tables = [_overall(network.name, name, kinds, found, looked_at) for name, kinds in groups.items()]
    tables += [
        Table(
            f"MAE / gradient / composite by kind, {name}",
            ["tier", *kinds],
            [
                [tier.value, *(_joined([one[tier][0] for one in found[kind]]) for kind in kinds)]
                for tier in SOLD
            ],
        )
        for name, kinds in groups.items()
    ]
    errors = {
        tier.value: {kind: vars(mean([one[tier][0] for one in found[kind]])) for kind in KINDS if found[kind]}
        for tier in SOLD
    }
    publish("quality-whole", tables, {"network": network.name, "errors": errors})


def _measured(network: Network) -> tuple[dict[str, list[Measured]], dict[str, int], list[Bytes]]:
    """Return the errors of WANTED scenes of each kind, how many were looked at, and the rows of the contact sheet."""
    found: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
    looked_at = dict.fromkeys(KINDS, 0)
    rows: list[Bytes] = []
    for kind in KINDS:
        for seed in SEEDS:
            if len(found[kind]) == WANTED:
                break
            scene = scenes.make(kind, SIZES[seed % len(SIZES)], seed)
            rgb = torch.from_numpy(decode.decode(scene.photo).rgb)
            looked_at[kind] += 1
            first = network.look(rgb)
            if first is None or overlap(scene, first[0, 0].cpu().numpy()) < FOUND:
                continue
            results = network.tiers(rgb, first)
            if not found[kind]:
                rows += _rows(scene, rgb.numpy(), results)
            found[kind].append(
                {
                    tier: (measure(scene, colours, alpha), saliency(scene, alpha))
                    for tier, (colours, alpha) in results.items()
                }
            )
            print(
                scene.name, *(f"{error.composite:.1f}" for error, _ in found[kind][-1].values()), flush=True
            )
    return found, looked_at, rows


def _overall(
    network: str,
    name: str,
    kinds: tuple[str, ...],
    found: dict[str, list[Measured]],
    looked_at: dict[str, int],
) -> Table:
    """Return the mean errors of each tier over the scenes of some kinds."""
    scenes_found = [one for kind in kinds for one in found[kind]]
    rows = []
    for tier in SOLD if scenes_found else ():
        errors = vars(mean([one[tier][0] for one in scenes_found]))
        shapes = np.mean([one[tier][1] for one in scenes_found], 0)
        rows.append([tier.value, *(f"{errors[column]:.2f}" for column in compare.COLUMNS)])
        rows[-1] += [f"{value:.3f}" for value in shapes]
    seen = sum(looked_at[kind] for kind in kinds)
    return Table(
        f"{network}, {len(scenes_found)} {name} scenes whose subject it finds, of {seen}. {compare.UNITS}",
        ["tier", *compare.COLUMNS.values(), "S-measure", "weighted F"],
        rows,
    )


def _joined(errors: list[Error]) -> str:
    if not errors:
        return "–"
    one = mean(errors)
    return f"{one.mae:.2f} / {one.gradient:.1f} / {one.composite:.1f}"


def _rows(scene: Scene, picture: Bytes, results: dict[Tier, tuple[Bytes, Bytes]]) -> list[Bytes]:
    """Return the rows of the contact sheet for a scene: one, or for the product one on each ground.

    Each has a thumbnail of the photo and the crop with the most mixed alpha: as in the photo, as cut out by each tier,
    and as the ground truth.
    """
    grounds = PRODUCT_GROUNDS if scene.kind == PRODUCT else (GREEN,)
    alpha = torch.from_numpy(scene.alpha)[None, None]
    mixed = torch.nn.functional.avg_pool2d(alpha * (1 - alpha), CROP, 20)[0, 0]
    place = int(mixed.argmax())
    top, left = place // mixed.shape[1] * 20, place % mixed.shape[1] * 20
    piece = (slice(top, top + CROP), slice(left, left + CROP))
    small = Image.fromarray(picture)
    small.thumbnail((CROP, CROP))
    whole = Image.new("RGB", (CROP, CROP), "white")
    whole.paste(small, ((CROP - small.width) // 2, (CROP - small.height) // 2))
    truth = np.rint(scene.alpha[piece] * 255).astype(np.uint8)
    cut = [*((rgb[piece], alpha[piece]) for rgb, alpha in results.values()), (scene.foreground[piece], truth)]
    return [
        np.concatenate([np.asarray(whole), picture[piece], *(_on(ground, *one) for one in cut)], 1)
        for ground in grounds
    ]


def _on(ground: Colour, rgb: Bytes, alpha: Bytes) -> Bytes:
    return compositing.on_background(torch.from_numpy(rgb), torch.from_numpy(alpha), ground).numpy()


def _save_sheet(rows: list[Bytes]) -> None:
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(SHEET, quality=88)
