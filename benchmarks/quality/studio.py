"""The studio behind hard subjects: a white or coloured sweep, and the shadows of the subject on it.

A shadow is background: it darkens what is behind the subject, and alpha is 0 there.
"""

import cv2
import numpy as np

from benchmarks.quality.layers import Floats

REDUCTION = 8  # shadows and gradients are soft, so they are drawn this much smaller


def sweep(rng: np.random.Generator, alpha: Floats, tone: float | None = None) -> Floats:
    """Return a sweep with the subject's shadows, [H,W,3]: evenly lit around `tone`, or of a random colour.

    Three quarters of the random ones are white or nearly so, often clipped to 255 in the light.
    """
    height, width = alpha.shape
    if tone is not None:
        colour, fall = np.full(3, tone), rng.uniform(0, 1)
    elif rng.random() < 0.75:
        colour, fall = 255 * rng.uniform(0.94, 1.04) - rng.uniform(0, 5, 3), rng.uniform(0, 25)
    else:
        colour, fall = rng.uniform(60, 230, 3), rng.uniform(0, 50)
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij", sparse=True)
    centre = rng.uniform(-0.5, 0.5, 2)
    dark = (fall / 2 * ((y - centre[0]) ** 2 + (x - centre[1]) ** 2)).astype(np.float32)
    ground = np.clip(colour.astype(np.float32) - dark[..., None], 0, 255)
    return shaded(rng, ground, alpha)


def shaded(rng: np.random.Generator, ground: Floats, alpha: Floats) -> Floats:
    """Return a background with the subject's contact shadow, and mostly a cast shadow."""
    height, width = alpha.shape
    unit = min(height, width) / REDUCTION
    size = (max(1, width // REDUCTION), max(1, height // REDUCTION))
    small = cv2.resize(alpha.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    rows = np.flatnonzero(small.max(1) > 0.5)
    if len(rows) == 0:
        return ground
    base = float(rows[-1])
    # The foot touches the ground in its lowest part; its shadow is a little lower and wider.
    foot = small * (np.arange(size[1]) > base - 0.02 * unit)[:, None]
    contact = _moved(foot, 0, 1, base, rng.uniform(0.002, 0.008) * unit)
    shadow = rng.uniform(0.2, 0.6) * _soft(contact, rng.uniform(0.004, 0.015) * unit)
    if rng.random() < 0.7:
        cast = _moved(small, rng.uniform(-1, 1), rng.uniform(0.1, 0.4), base, 0)
        shadow = shadow + rng.uniform(0.05, 0.25) * _soft(cast, rng.uniform(0.01, 0.05) * unit)
    shadow = cv2.resize(shadow, (width, height), interpolation=cv2.INTER_LINEAR)
    return ground * (1 - np.clip(shadow, 0, 0.8))[..., None]


def _moved(shape: Floats, lean: float, flatness: float, base: float, down: float) -> Floats:
    """Return a shape laid on the ground: squeezed towards its base to `flatness`, sheared by `lean`, moved down."""
    matrix = np.array([[1, -lean, lean * base], [0, flatness, base * (1 - flatness) + down]], np.float64)
    return cv2.warpAffine(shape, matrix, shape.shape[::-1])


def _soft(shape: Floats, sigma: float) -> Floats:
    return cv2.GaussianBlur(shape, (0, 0), max(sigma, 0.3))
