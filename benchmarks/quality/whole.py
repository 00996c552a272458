"""The tiers end to end, with this host's network, over scenes whose subject the network finds."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.quality import scenes
from benchmarks.quality.layers import Bytes, Scene
from benchmarks.quality.measures import Error, mean, measure, overlap, saliency
from benchmarks.report import Table, publish
from cutout.app.config import settings
from cutout.inference.engine import open_engine
from cutout.inference.imaging import compositing, decode
from cutout.inference.matting.mask import find_subject, to_pixels
from cutout.inference.matting.pipeline import cut_out
from cutout.inference.tiers import TIERS, Tier

KINDS = ("hair", "fur", "defocus", "lace", "solid", "small")
SIZES = (3.0, 7.0, 12.0)
SEEDS = range(200, 230)
FOUND = 0.8  # minimum intersection over union with the ground truth
WANTED = 3  # scenes of each kind

SHEET = Path(__file__).parents[2] / "docs/images/quality-tiers.jpg"
CROP = 300
GREEN = (0, 177, 64)


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
        for tier in Tier:
            cut = cut_out(
                rgb, None, TIERS[tier].recipe, lambda part: first if part is rgb else self.look(part)
            )
            results[tier] = (cut.rgb.numpy(), cut.alpha.numpy())
        return results


def run() -> None:
    """Measure the tiers, print and save the results, and draw the contact sheet."""
    network = Network()
    errors: dict[str, dict[Tier, list[Error]]] = {kind: {tier: [] for tier in Tier} for kind in KINDS}
    shapes: dict[Tier, list[tuple[float, float]]] = {tier: [] for tier in Tier}
    rows, looked_at = [], 0
    for kind in KINDS:
        for seed in SEEDS:
            if len(errors[kind][Tier.BASIC]) == WANTED:
                break
            scene = scenes.make(kind, SIZES[seed % len(SIZES)], seed)
            rgb = torch.from_numpy(decode.decode(scene.photo).rgb)
            looked_at += 1
            first = network.look(rgb)
            if first is None or overlap(scene, first[0, 0].cpu().numpy()) < FOUND:
                continue
            results = network.tiers(rgb, first)
            for tier, (colours, alpha) in results.items():
                errors[kind][tier].append(measure(scene, colours, alpha))
                shapes[tier].append(saliency(scene, alpha))
            if len(errors[kind][Tier.BASIC]) == 1:
                rows.append(_row(scene, rgb.numpy(), results))
            print(scene.name, *(f"{errors[kind][tier][-1].composite:.1f}" for tier in Tier))
    _save_sheet(rows)

    everything = {tier: mean([one for kind in KINDS for one in errors[kind][tier]]) for tier in Tier}
    count = sum(len(errors[kind][Tier.BASIC]) for kind in KINDS)
    table = Table(
        f"{network.name}, {count} scenes whose subject it finds, of {looked_at}: mean errors in thousandths",
        ["tier", "MAE", "SAD", "gradient", "composite", "edge colour", "S-measure", "weighted F"],
        [
            [
                tier.value,
                *(f"{value:.1f}" for value in vars(one).values()),
                *(f"{value:.3f}" for value in np.mean(shapes[tier], 0)),
            ]
            for tier, one in everything.items()
        ],
    )
    by_kind = Table(
        "MAE / gradient / composite by kind",
        ["tier", *KINDS],
        [[tier.value, *(_joined(errors[kind][tier]) for kind in KINDS)] for tier in Tier],
    )
    publish(
        "quality-whole",
        [table, by_kind],
        {
            "network": network.name,
            "errors": {
                tier.value: {kind: vars(mean(errors[kind][tier])) for kind in KINDS if errors[kind][tier]}
                | {"all": vars(everything[tier])}
                for tier in Tier
            },
        },
    )


def _joined(errors: list[Error]) -> str:
    if not errors:
        return "–"
    one = mean(errors)
    return f"{one.mae:.2f} / {one.gradient:.1f} / {one.composite:.1f}"


def _row(scene: Scene, picture: Bytes, results: dict[Tier, tuple[Bytes, Bytes]]) -> Bytes:
    """Return one row of the contact sheet: a thumbnail of the photo and the crop with the most mixed alpha.

    The crop is shown as in the photo, as cut out by each tier on green, and as the ground truth on green.
    """
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
    tiles = [np.asarray(whole), picture[piece]]
    tiles += [_on_green(rgb[piece], alpha[piece]) for rgb, alpha in results.values()]
    tiles.append(_on_green(scene.foreground[piece], truth))
    return np.concatenate(tiles, 1)


def _on_green(rgb: Bytes, alpha: Bytes) -> Bytes:
    return compositing.on_background(torch.from_numpy(rgb), torch.from_numpy(alpha), GREEN).numpy()


def _save_sheet(rows: list[Bytes]) -> None:
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(SHEET, quality=88)
