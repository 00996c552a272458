"""Flicker of animations: how much alpha differs between frames where the photo stands still, before and after steadying.

The frames are the project's own sample photos, with noise and the artefacts of JPEG, different in each frame: standing
still, with a subject of known alpha that moves over a ground, and seen by a camera that moves. The network is the real one.
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageFilter

from benchmarks.report import Table, publish
from cutout.inference.cutout import Cutout
from cutout.inference.imaging.decode import decode
from cutout.inference.matting.steady import Steadier
from cutout.inference.options import Options
from cutout.inference.tiers import Tier
from cutout.library import open_engine

PHOTOS = Path(__file__).parents[2] / "tests" / "data"
FRAMES, SIDE = 6, 320
NOISE, JPEG_QUALITY = 4.0, 60
TIER = Tier.STANDARD
Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Remove = Callable[[bytes, Options], Cutout]


@dataclass(frozen=True)
class Shot:
    """A frame without noise, uint8 [H,W,3], and the true alpha of its subject, [H,W] of 0…1, if it is known."""

    clean: Bytes = field(repr=False)
    truth: Floats | None = field(default=None, repr=False)


def run() -> None:
    """Measure each scene, print and save the table."""
    scenes: dict[str, Callable[[], Iterator[Shot]]] = {
        "astronaut, standing still": lambda: still("astronaut"),
        "chelsea, standing still": lambda: still("chelsea"),
        "a disc of coffee moves over grass": moving,
        "astronaut, the camera moves by 3 pixels a frame": panned,
    }
    rows, figures = [], {}
    with open_engine([TIER]) as engine:
        for name, shots in scenes.items():
            figures[name] = found = _measured(engine.remove, list(shots()))
            rows.append([name, *("–" if one is None else f"{one:.2f}" for one in found.values())])
            print(*rows[-1], flush=True)
    table = Table(
        f"Alpha over {FRAMES} frames of {SIDE} pixels, tier {TIER}, before and after steadying. Flicker: the mean difference"
        " between frames where the photo stands still, in levels of 255; error: that from the true alpha, in thousandths;"
        " changed: the mean difference between before and after, in levels",
        ["frames", "flicker before", "after", "error before", "after", "changed"],
        rows,
    )
    publish("quality-flicker", [table], figures)


def still(name: str) -> Iterator[Shot]:
    """Show one photo."""
    photo = _sample(name)
    for _ in range(FRAMES):
        yield Shot(photo)


def moving() -> Iterator[Shot]:
    """Move a disc that shows a photo over another one."""
    ground, shown = _sample("grass"), _sample("coffee")
    height, width = (min(one, other) for one, other in zip(ground.shape[:2], shown.shape[:2], strict=True))
    ground, shown = ground[:height, :width], shown[:height, :width]
    rows, columns = np.mgrid[:height, :width] + 0.5
    for index in range(FRAMES):
        distance = np.hypot(columns - 0.35 * width - 4 * index, rows - height / 2)
        alpha = np.clip((0.3 * height - distance) / 1.5 + 0.5, 0, 1)
        mixed = alpha[..., None] * np.roll(shown, 4 * index, 1) + (1 - alpha[..., None]) * ground
        yield Shot(np.rint(mixed).astype(np.uint8), alpha)


def panned() -> Iterator[Shot]:
    """Move a window over a photo."""
    photo = _sample("astronaut")
    width = photo.shape[1] - 3 * FRAMES
    for index in range(FRAMES):
        yield Shot(np.ascontiguousarray(photo[:, 3 * index : 3 * index + width]))


def _measured(remove: Remove, shots: list[Shot]) -> dict[str, float | None]:
    rng = np.random.default_rng(0)
    photos = [_as_filmed(shot.clean, rng) for shot in shots]
    before = [_alpha(remove, photo) for photo in photos]
    steadier = Steadier(torch.device("cpu"))
    for photo, alpha in zip(photos, before, strict=True):
        steadier.add(torch.from_numpy(photo), torch.from_numpy(alpha)[None])
    steadier.finish()
    after = [steadier.steadied(index)[0].numpy() for index in range(len(photos))]
    return {
        "flicker before": _flicker(before, shots),
        "flicker after": _flicker(after, shots),
        "error before": _error(before, shots),
        "error after": _error(after, shots),
        "changed": float(
            np.mean([np.abs(a.astype(float) - b).mean() for a, b in zip(before, after, strict=True)])
        ),
    }


def _alpha(remove: Remove, photo: Bytes) -> Bytes:
    out = io.BytesIO()
    Image.fromarray(photo).save(out, "PNG", compress_level=1)
    return decode(remove(out.getvalue(), Options(tier=TIER, mask_only=True)).data).rgb[..., 0].copy()


def _flicker(alphas: list[Bytes], shots: list[Shot]) -> float | None:
    """Return the mean difference between frames, of pixels around which the photo is the same in both."""
    total, pixels = 0.0, 0
    for (alpha, shot), (other, next_shot) in pairwise(zip(alphas, shots, strict=True)):
        differs = (shot.clean != next_shot.clean).any(2)
        near = np.array(Image.fromarray(differs).convert("L").filter(ImageFilter.MaxFilter(9))) > 0
        total += float(np.abs(alpha.astype(float) - other)[~near].sum())
        pixels += int((~near).sum())
    return total / pixels if pixels > alphas[0].size // 100 else None


def _error(alphas: list[Bytes], shots: list[Shot]) -> float | None:
    errors = [
        float(np.abs(alpha / 255 - shot.truth).mean())
        for alpha, shot in zip(alphas, shots, strict=True)
        if shot.truth is not None
    ]
    return 1000 * float(np.mean(errors)) if errors else None


def _as_filmed(photo: Bytes, rng: np.random.Generator) -> Bytes:
    noisy, out = photo + rng.normal(0, NOISE, photo.shape), io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(out, "JPEG", quality=JPEG_QUALITY)
    return np.array(Image.open(out))


def _sample(name: str) -> Bytes:
    photo = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    photo.thumbnail((SIDE, SIDE))
    return np.array(photo)
