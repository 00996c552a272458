"""Composite photos with known alpha and foreground colours.

Soft subjects stand before photos that are included in scikit-image and scikit-learn, hard ones mostly before the white
sweep of a studio. The effects of a camera are simulated (`camera.py`).
"""

import math
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from benchmarks.quality import hard, soft, studio
from benchmarks.quality.camera import Camera, random_camera
from benchmarks.quality.layers import Floats, Scene, levels

BACKGROUNDS = {
    "skimage": ("motorcycle_left.png", "rocket.jpg", "coffee.png", "grass.png", "gravel.png", "brick.png"),
    "sklearn": ("china.jpg", "flower.jpg"),
}
OUTDOORS = 0.2  # share of the hard subjects that stand before a photo
# The order is part of the scenes: it seeds them.
KINDS = {**soft.KINDS, **hard.KINDS}


def make(kind: str, megapixels: float, seed: int, camera: Camera | None = None) -> Scene:
    """Make one scene; the same arguments give the same bytes.

    Without a `camera`, soft subjects are taken by a good one, and hard ones by a random one.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    aspect = rng.choice([3 / 4, 1.0, 4 / 3])
    height = round(math.sqrt(megapixels * 1e6 / aspect))
    width = round(height * aspect)
    if kind in soft.KINDS:
        camera = camera or Camera()
        layer = camera.through_lens(soft.KINDS[kind](rng, height, width))
        behind = background(rng, height, width)
    else:
        camera = camera or random_camera(rng)
        subject = hard.KINDS[kind](rng, height, width)
        layer = camera.through_lens(subject)
        behind = _behind(rng, kind, layer.alpha)
    photo = camera.take(rng, layer.colour + (1 - layer.alpha)[..., None] * behind)
    foreground = layer.colour / np.maximum(layer.alpha, 1e-3)[..., None]
    return Scene(f"{kind}-{seed}", kind, photo, layer.alpha, levels(foreground))


def background(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Return one of the background photos as [H,W,3]: either enlarged and thus blurred, or mirror-tiled and sharp."""
    files = [
        Path(spec.origin).parent / ("data" if package == "skimage" else "datasets/images") / file
        for package, names in BACKGROUNDS.items()
        if (spec := find_spec(package)) is not None and spec.origin is not None
        for file in names
    ]
    picture = np.asarray(Image.open(files[rng.integers(len(files))]).convert("RGB"))
    if rng.random() < 0.5:
        picture = np.concatenate([picture, picture[:, ::-1]], 1)
        picture = np.concatenate([picture, picture[::-1]], 0)
        while picture.shape[0] * 2 < height or picture.shape[1] * 2 < width:
            picture = np.tile(picture, (2, 2, 1))
        picture = picture[: height // 2 + 1, : width // 2 + 1]
    scale = max(height / picture.shape[0], width / picture.shape[1])
    size = (math.ceil(picture.shape[1] * scale), math.ceil(picture.shape[0] * scale))
    large = cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC)[:height, :width]
    return large.astype(np.float32)


def _behind(rng: np.random.Generator, kind: str, alpha: Floats) -> Floats:
    if kind in hard.TONES:
        return studio.sweep(rng, alpha, hard.TONES[kind])
    if rng.random() < OUTDOORS:
        return studio.shaded(rng, background(rng, *alpha.shape), alpha)
    return studio.sweep(rng, alpha)
