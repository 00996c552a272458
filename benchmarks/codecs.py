"""The codecs alone, on one twelve-megapixel photo: Cutout's compared with Pillow's defaults, in one run.

Apart from the network, codecs take most of the time. Each figure is the best of several alternating tries.
"""

import io
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from benchmarks import inputs
from benchmarks.report import Table, publish
from cutout.inference.imaging import compositing, decode
from cutout.inference.imaging.decode import Pixels
from cutout.inference.imaging.encode import Format, encode

MEGAPIXELS = 12.0
TRIES = 3
QUALITY = 90


def run() -> None:
    """Measure the codecs, print and save the results."""
    rgb = inputs.pixels("astronaut", MEGAPIXELS)
    jpeg = inputs.jpeg("astronaut", MEGAPIXELS)
    alpha = disc(*rgb.shape[:2])
    rgba = compositing.transparent(torch.from_numpy(rgb), torch.from_numpy(alpha)).numpy()
    image = Image.fromarray(rgba)

    cases: list[tuple[str, Callable[[], bytes | None], Callable[[], bytes | None]]] = [
        (
            "JPEG → RGB",
            lambda: discard(decode.decode(jpeg)),
            lambda: discard(np.asarray(Image.open(io.BytesIO(jpeg)))),
        ),
        ("RGBA → PNG", lambda: encode(rgba, Format.PNG, QUALITY), lambda: pillow(image, "PNG")),
        (
            "RGBA → WebP",
            lambda: encode(rgba, Format.WEBP, QUALITY),
            lambda: pillow(image, "WEBP", quality=QUALITY),
        ),
        (
            "RGBA → AVIF",
            lambda: encode(rgba, Format.AVIF, QUALITY),
            lambda: pillow(image, "AVIF", quality=QUALITY),
        ),
    ]
    rows, figures = [], {}
    for name, ours, theirs in cases:
        seconds, sizes = race(ours, theirs)
        ratio = seconds[1] / seconds[0]
        figures[name] = {
            "ours_s": round(seconds[0], 4),
            "pillow_s": round(seconds[1], 4),
            "times_faster": round(ratio, 1),
        }
        row = [name, f"{1000 * seconds[0]:.0f} ms", f"{1000 * seconds[1]:.0f} ms", f"{ratio:.1f} ×"]
        if sizes[0]:
            figures[name]["size_ratio"] = round(sizes[0] / sizes[1], 3)
            row.append(f"{sizes[0] / 1e6:.1f} MB, {sizes[0] / sizes[1]:.2f} of Pillow's")
        rows.append(row)
    table = Table(
        f"Codecs at {MEGAPIXELS:g} megapixels, best of {TRIES}",
        ["", "Cutout", "Pillow's default", "faster", "size"],
        rows,
    )
    publish("codecs", [table], {"megapixels": MEGAPIXELS, "quality": QUALITY, "codecs": figures})


def race(*runners: Callable[[], bytes | None]) -> tuple[list[float], list[int]]:
    """Run each in turn, several times; return the best time of each, in seconds, and the size of its result."""
    best = [float("inf")] * len(runners)
    sizes = [0] * len(runners)
    for _ in range(TRIES):
        for index, runner in enumerate(runners):
            start = time.perf_counter()
            result = runner()
            best[index] = min(best[index], time.perf_counter() - start)
            sizes[index] = len(result or b"")
    return best, sizes


def disc(height: int, width: int) -> Pixels:
    """Return an alpha of a soft-edged disc, uint8 [H,W]."""
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    return np.asarray(np.clip((0.9 - np.hypot(x, y)) * 2000, 0, 255).astype(np.uint8))


def pillow(image: Image.Image, name: str, **options: int) -> bytes:
    """Encode with Pillow's defaults."""
    out = io.BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def discard(_: object) -> None:
    """Return nothing, for a runner whose result is not bytes."""
