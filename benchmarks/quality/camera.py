"""The effects of a camera on a composite: softness of the lens, noise, sharpening and JPEG compression.

All of it happens in the photo's sRGB values, as mixing with the background does, because that is how every program
lays a cut-out on a new background: alpha is defined by that mixture.
"""

import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from benchmarks.quality.layers import Floats, Layer, levels


@dataclass(frozen=True)
class Camera:
    """`lens` and `radius` are standard deviations in pixels; `noise` is one in levels of 255.

    `sharpening` is the amount of an unsharp mask with that `radius`, which leaves a light and a dark line along every
    strong edge; 0 is none. `jpeg` is Pillow's quality, with chroma of half the size.
    """

    lens: float = 0.7
    noise: float = 2.5
    sharpening: float = 0.0
    radius: float = 1.0
    jpeg: int = 95

    def through_lens(self, layer: Layer) -> Layer:
        """Blur a subject."""
        blurred = (cv2.GaussianBlur(part, (0, 0), self.lens) for part in (layer.colour, layer.alpha))
        return Layer(*blurred)

    def take(self, rng: np.random.Generator, light: Floats) -> bytes:
        """Return the photo, a JPEG, of a composite, float32 [H,W,3] of 0…255."""
        photo = (light + rng.normal(0, self.noise, light.shape)).astype(np.float32)
        if self.sharpening:
            photo += self.sharpening * (photo - cv2.GaussianBlur(photo, (0, 0), self.radius))
        out = io.BytesIO()
        Image.fromarray(levels(photo)).save(out, "JPEG", quality=self.jpeg)
        return out.getvalue()


def random_camera(rng: np.random.Generator) -> Camera:
    """Return a camera as those of product photos: quality 60 to 95, most of them sharpened.

    The sharpest edges are those of photos that were made smaller.
    """
    return Camera(
        lens=rng.uniform(0.3, 1.0),
        noise=rng.uniform(0.5, 3.0),
        sharpening=rng.uniform(0.3, 1.5) if rng.random() < 0.7 else 0.0,
        radius=rng.uniform(0.7, 1.4),
        jpeg=int(rng.integers(60, 96)),
    )
