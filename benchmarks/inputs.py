"""Benchmark photos made from the test photos: real subjects, scaled to any size, with simulated sensor noise."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "tests" / "data"
SUBJECTS = ("astronaut", "chelsea", "coffee")
SENSOR_NOISE = 4.0  # standard deviation, in levels of 255


def pixels(name: str, megapixels: float) -> npt.NDArray[np.uint8]:
    """Return a test photo scaled to about `megapixels`, with noise, uint8 [H,W,3]."""
    image = Image.open(PHOTOS / f"{name}.jpg").convert("RGB")
    scale = (megapixels * 1e6 / (image.width * image.height)) ** 0.5
    size = (round(image.width * scale), round(image.height * scale))
    enlarged = np.asarray(image.resize(size, Image.Resampling.LANCZOS), np.float32)
    noise = np.random.default_rng(0).normal(0, SENSOR_NOISE, enlarged.shape)
    return np.clip(enlarged + noise, 0, 255).astype(np.uint8)


def jpeg(name: str, megapixels: float) -> bytes:
    """Return such a photo encoded like a camera's: JPEG, quality 92."""
    out = io.BytesIO()
    Image.fromarray(pixels(name, megapixels)).save(out, "JPEG", quality=92)
    return out.getvalue()
