"""Surfaces of hard subjects: print with text and stripes, knitting, the light on a round body."""

import math

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from benchmarks.quality.layers import Bytes, Floats, levels, random_colour

WORDS = (
    "FRESH",
    "natural",
    "No. 12",
    "Original",
    "COFFEE",
    "Olive Oil",
    "SHAMPOO",
    "500 ml",
    "Net wt 12 oz",
    "BIO",
)
FINE = 3  # a print is laid around a body at this many times the photo's width


def label(rng: np.random.Generator, height: int, width: int) -> Bytes:
    """Draw a print that fills [height,width] to its borders: stripes, blocks, a ring, lines of text, a bar code."""
    height, width = max(8, height), max(8, width)
    paper = random_colour(rng, (0, 0, 0), (256, 256, 256)) if rng.random() < 0.5 else (250, 249, 245)
    image = Image.new("RGB", (width, height), paper)
    pen = ImageDraw.Draw(image)
    inks = [random_colour(rng, (0, 0, 0), (256, 256, 256)) for _ in range(3)] + [
        (255, 255, 255),
        (20, 20, 20),
    ]

    def ink() -> tuple[int, int, int]:
        return inks[rng.integers(len(inks))]

    for _ in range(rng.integers(0, 3)):
        _stripes(rng, pen, height, width, ink())
    for _ in range(rng.integers(1, 4)):
        _pattern(rng, image, ink(), ink())
    for _ in range(rng.integers(0, 3)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        size = min(height, width) * rng.uniform(0.1, 0.3)
        pen.ellipse((x - size, y - size, x + size, y + size), ink(), ink(), max(1, round(size / 8)))
    for _ in range(rng.integers(2, 5)):
        _text(rng, pen, height, width, ink(), rng.uniform(0.08, 0.25))
    _text(rng, pen, height, width, ink(), rng.uniform(0.015, 0.04), lines=int(rng.integers(5, 20)))
    left, top = rng.uniform(0, width * 0.8), rng.uniform(0, height * 0.8)
    for _ in range(30):
        thick = max(1, round(width / 400 * rng.integers(1, 4)))
        pen.rectangle((left, top, left + thick, top + height * 0.12), (20, 20, 20))
        left += 2 * thick
    return np.asarray(image)


def _stripes(
    rng: np.random.Generator, pen: ImageDraw.ImageDraw, height: int, width: int, ink: tuple[int, int, int]
) -> None:
    """Draw a field of level or slanted stripes across the whole width."""
    period = height * rng.uniform(0.01, 0.08)
    start, count = rng.uniform(0, height), rng.integers(2, 12)
    slant = 0 if rng.random() < 0.6 else rng.uniform(-0.6, 0.6) * width
    for number in range(count):
        y = start + number * period
        corners = [(0, y), (width, y + slant), (width, y + slant + period / 2), (0, y + period / 2)]
        pen.polygon(corners, ink)


def _pattern(
    rng: np.random.Generator, image: Image.Image, first: tuple[int, int, int], second: tuple[int, int, int]
) -> None:
    """Draw a band of fine checks, dots or lines in two inks across the whole width."""
    top, tall = (
        round(rng.uniform(-0.1, 0.9) * image.height),
        round(rng.uniform(0.05, 0.35) * image.height) + 1,
    )
    y, x = np.mgrid[:tall, : image.width].astype(np.float32) * np.float32(
        math.pi / (image.height * rng.uniform(0.004, 0.03))
    )
    waves = (np.sin(x) * np.sin(y), np.sin(x) + np.sin(y) - 0.7, np.sin(x), np.sin(y), np.sin(x + y))
    ink = np.clip(2 * waves[rng.integers(len(waves))] + 0.5, 0, 1)[..., None]
    band = ink * np.array(first, np.float32) + (1 - ink) * np.array(second, np.float32)
    image.paste(Image.fromarray(levels(band)), (0, top))


def _text(
    rng: np.random.Generator,
    pen: ImageDraw.ImageDraw,
    height: int,
    width: int,
    ink: tuple[int, int, int],
    share: float,
    lines: int = 1,
) -> None:
    """Draw lines of text, each `share` of the smaller side high, that are cut off at both borders."""
    size = max(6, round(min(height, width) * share))
    left, top = rng.uniform(-0.3, 0.0) * width, rng.uniform(0, 0.95) * height
    for number in range(lines):
        words = "  ".join(rng.choice(WORDS, 3 + round(0.4 * width / size)))
        pen.text((left, top + 1.3 * size * number), words, ink, ImageFont.load_default(size))


def around(print_: Bytes, u: Floats, row: Floats) -> Floats:
    """Lay a print around the visible half of an upright round body, float32 [H,W,3].

    `u` is the place across the body, -1…1, and `row` the print's row; pixels outside of either get its border.
    """
    height, width = u.shape
    fine = (FINE * width, height)
    wide = cv2.resize(u.astype(np.float32), fine, interpolation=cv2.INTER_LINEAR)
    column = (np.arcsin(np.clip(wide, -1, 1)) / math.pi + 0.5) * (print_.shape[1] - 1)
    rows = cv2.resize(row.astype(np.float32), fine, interpolation=cv2.INTER_LINEAR)
    laid = cv2.remap(print_, column, rows, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return cv2.resize(laid, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)


def lit(rng: np.random.Generator, colour: Floats, u: Floats, gloss: float = 1.0) -> Floats:
    """Return the colours of a round body under studio light: shaded, with soft boxes and a rim, [H,W,3].

    The rim is what a white sweep, or a black flag beside the product, leaves on a glossy edge.
    """
    u = np.clip(u, -1, 1)
    lean = rng.uniform(-0.5, 0.5)
    shade = 0.6 + 0.4 * np.cos(np.arcsin(u) - lean)
    shine = np.zeros_like(u)
    for _ in range(rng.integers(1, 3)):
        place, wide = rng.uniform(-0.8, 0.8), rng.uniform(0.03, 0.1)
        shine += rng.uniform(0.2, 0.7) * np.exp(-(((u - place) / wide) ** 4))
    rim = rng.uniform(0, 1) * np.clip((np.abs(u) - 1) / rng.uniform(0.02, 0.1) + 1, 0, 1)
    bright = 255.0 if rng.random() < 0.7 else 15.0
    body = colour * shade[..., None]
    body += gloss * np.clip(shine, 0, 0.9)[..., None] * (255 - body)
    return np.clip(body + gloss * rim[..., None] * (bright - body), 0, 255)


def knitting(rng: np.random.Generator, height: int, width: int, stitch: float) -> Floats:
    """Draw rows of V-shaped stitches, `stitch` pixels wide, some in a second colour, float32 [height,width,3]."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    across = x / stitch % 1
    rise = y / (stitch * 0.8) + 1.2 * np.abs(across - 0.5)
    row = np.floor(rise).astype(int)
    column = np.floor(x / stitch).astype(int)
    relief = np.sqrt(np.abs(np.sin(math.pi * (rise % 1)))) * (
        0.5 + 0.5 * np.abs(np.sin(2 * math.pi * across))
    )
    # Half of the yarns are as light as a white sweep, with dark gaps between the stitches.
    low = (40, 40, 40) if rng.random() < 0.5 else (215, 210, 200)
    first = np.array(random_colour(rng, low, (256, 256, 256)), np.float32)
    second = np.array(random_colour(rng, (20, 20, 20), (256, 256, 256)), np.float32)
    pattern = rng.random((14, 6)) < rng.uniform(0.0, 0.5)
    chosen = pattern[row % 14, column % 6][..., None]
    fibre = levels(rng.normal(128, 30, (height, width)).astype(np.float32)).astype(np.float32) - 128
    fibre = cv2.GaussianBlur(fibre, (0, 0), max(0.7, stitch / 12))
    gap = rng.uniform(0.25, 0.7)
    return np.where(chosen, second, first) * (gap + (1 - gap) * relief)[..., None] + fibre[..., None]
