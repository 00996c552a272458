"""Halos on new backgrounds: how much of the old background is left around a subject, and the fringe that a JPEG adds.

Each scene is cut out with its true alpha as the mask, and composited on five colours. *Halo* is the share of the old
background that is visible where the true alpha is under 50 %: what the result has beyond the true composite, projected on
the difference between the old background and the new one. *Fringe* is the mean error of the edge after encoding, less
that before, for JPEG as the engine writes it and with chroma of half the size, as most programs do.

Compositing mixes encoded colours, or linear light. A second table compares both with the truth, for photos whose edges
were mixed the one way and the other: a lens mixes light, editors mix encoded colours.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.quality import scenes
from benchmarks.quality.layers import Bytes, Floats, Scene, levels
from benchmarks.quality.measures import edge_of
from benchmarks.quality.methods import METHODS, ideal_mask
from benchmarks.report import Table, publish
from cutout.inference.imaging import compositing, decode, encode
from cutout.inference.imaging.encode import Format

KINDS = ("hair", "fur", "lace", "solid", "bottle", "label", "knit", "wire")
MEGAPIXELS, SEEDS = 1.0, (400, 401)
GROUNDS = {
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "red": (220, 30, 30),
    "green": (0, 177, 64),
    "blue": (30, 60, 220),
}
TIERS = {"basic": "raw (basic)", "standard": "standard", "professional": "professional"}
QUALITY = 90
Mix = Callable[[Floats, Floats, Floats], Floats]


def run() -> None:
    """Measure, print and save the results."""
    made = [scenes.make(kind, MEGAPIXELS, seed) for kind in KINDS for seed in SEEDS]
    halos = {
        tier: {ground: [_halo(scene, tier, GROUNDS[ground]) for scene in made] for ground in GROUNDS}
        for tier in TIERS
    }
    rows = [
        [tier, *(f"{1000 * float(np.mean(found)):.1f}" for found in by_ground.values())]
        for tier, by_ground in halos.items()
    ]
    halo = Table(
        f"Halo, thousandths of the old background, {len(made)} scenes of {MEGAPIXELS:g} megapixel; 0 is none",
        ["tier", *GROUNDS],
        rows,
    )
    fringe = _fringe_table(made)
    mixing, figures = _mixing_table(made)
    publish("quality-halo", [halo, fringe, mixing], {"halo": halos, "mixing": figures})


def _cut(scene: Scene, tier: str) -> tuple[Bytes, Bytes]:
    return METHODS[TIERS[tier]](decode.decode(scene.photo).rgb, ideal_mask(scene))


def _on(rgb: Bytes, alpha: Bytes, ground: tuple[int, int, int]) -> Bytes:
    return compositing.on_background(torch.from_numpy(rgb), torch.from_numpy(alpha), ground).numpy()


def _truth(scene: Scene, ground: tuple[int, int, int], mix: Mix | None = None) -> Floats:
    below = np.broadcast_to(np.array(ground, np.float32), scene.foreground.shape)
    return (mix or _encoded)(scene.alpha[..., None], scene.foreground.astype(np.float32), below)


def _halo(scene: Scene, tier: str, ground: tuple[int, int, int]) -> float:
    outer = edge_of(scene.alpha) & (scene.alpha < 0.5)
    photo = decode.decode(scene.photo).rgb.astype(np.float32)
    alpha = scene.alpha[outer][:, None]
    old = (photo[outer] - alpha * scene.foreground[outer]) / (1 - alpha)
    beyond = _on(*_cut(scene, tier), ground)[outer] - _truth(scene, ground)[outer]
    apart = old - np.array(ground, np.float32)
    return float((beyond * apart).sum() / max(1e-6, float((apart**2).sum())))


def _fringe_table(made: list[Scene]) -> Table:
    errors: dict[str, list[float]] = {"4:4:4, as written": [], "4:2:0": []}
    for scene in made:
        rgb, alpha = _cut(scene, "professional")
        edge = edge_of(scene.alpha)
        for ground in GROUNDS.values():
            flat, true = _on(rgb, alpha, ground), _truth(scene, ground)
            before = np.abs(flat[edge] - true[edge]).mean()
            small = io.BytesIO()
            Image.fromarray(flat).save(small, "JPEG", quality=QUALITY, subsampling="4:2:0")
            for name, data in zip(
                errors, (encode.encode(flat, Format.JPG, QUALITY), small.getvalue()), strict=True
            ):
                after = np.abs(decode.decode(data).rgb[edge] - true[edge]).mean()
                errors[name].append(float(after - before) / 255)
    return Table(
        f"Fringe: what a JPEG of quality {QUALITY} adds to the error of the edge, thousandths",
        ["chroma", "mean", "worst"],
        [
            [name, f"{1000 * np.mean(found):.2f}", f"{1000 * max(found):.2f}"]
            for name, found in errors.items()
        ],
    )


def _mixing_table(made: list[Scene]) -> tuple[Table, dict[str, list[float]]]:
    """Compare both ways of compositing with the truth of photos whose edges were mixed either way."""
    rows, figures = [], {}
    for photo_name, true_mix in MIXES.items():
        photos = [scene if true_mix is _encoded else _remixed(scene, true_mix) for scene in made]
        cells = []
        for name, mix in MIXES.items():
            found = []
            for scene in photos:
                rgb, alpha = _cut(scene, "professional")
                edge = edge_of(scene.alpha)
                opacity = (alpha[edge] / np.float32(255))[:, None]
                for ground in GROUNDS.values():
                    below = np.broadcast_to(np.array(ground, np.float32), rgb[edge].shape)
                    flat = mix(opacity, rgb[edge].astype(np.float32), below)
                    found.append(float(np.abs(flat - _truth(scene, ground, true_mix)[edge]).mean() / 255))
            figures[f"{photo_name}, {name}"] = found
            cells.append(f"{1000 * np.mean(found):.1f}")
        rows.append([photo_name, *cells])
    title = (
        "Error of the composited edge, thousandths, by how the photo's edges were mixed and how the result is"
    )
    return Table(title, ["the photo's edges", *(f"composited in {name}" for name in MIXES)], rows), figures


def _remixed(scene: Scene, mix: Mix) -> Scene:
    """Return the scene with its edges mixed anew; its background there is smoothed, since it is divided by small numbers."""
    photo = decode.decode(scene.photo).rgb.astype(np.float32)
    alpha = scene.alpha[..., None]
    known = (alpha < 0.5).astype(np.float32)
    behind = np.where(known > 0, (photo - alpha * scene.foreground) / np.maximum(1 - alpha, 0.5), 0)
    size = (0, 0), 4.0
    weight = np.maximum(cv2.GaussianBlur(known, *size)[..., None], 1e-3)
    smooth = np.where(alpha < 0.02, photo, cv2.GaussianBlur(behind * known, *size) / weight)
    mixed = mix(alpha, scene.foreground.astype(np.float32), np.clip(smooth, 0, 255))
    out = io.BytesIO()
    Image.fromarray(levels(np.where(alpha > 0.98, photo, mixed))).save(out, "JPEG", quality=95, subsampling=0)
    return replace(scene, photo=out.getvalue())


def _encoded(alpha: Floats, above: Floats, below: Floats) -> Floats:
    return alpha * above + (1 - alpha) * below


def _linear(alpha: Floats, above: Floats, below: Floats) -> Floats:
    return _to_encoded(alpha * _to_light(above) + (1 - alpha) * _to_light(below))


MIXES: dict[str, Mix] = {"encoded colours": _encoded, "linear light": _linear}


def _to_light(encoded: Floats) -> Floats:
    """Decode sRGB of 0…255 to linear light of 0…1 (IEC 61966-2-1)."""
    value = encoded / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _to_encoded(light: Floats) -> Floats:
    light = np.clip(light, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
