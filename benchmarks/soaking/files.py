"""The files that a load's clients send: photos of all formats, and what is none."""

import io
import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from benchmarks import inputs
from tests.fakes import photo_bytes, stroke_mask, thin_picture

FORMATS = {
    "JPEG": "jpg",
    "PNG": "png",
    "WEBP": "webp",
    "TIFF": "tif",
    "BMP": "bmp",
    "GIF": "gif",
    "AVIF": "avif",
}
NAMES = ("photo", "Foto bagus", "写真", "a" * 200, "x;y=z", '"quoted"', "..", "CON")


@dataclass
class Files:
    """Photos of about these sizes in megapixels."""

    megapixels: tuple[float, ...]
    seed: int = 0

    @cached_property
    def photos(self) -> list[tuple[str, bytes, str]]:
        """Names, contents and media types of photos of all sizes and formats."""
        made = []
        for size in self.megapixels:
            for number, (kind, suffix) in enumerate(FORMATS.items()):
                pixels = inputs.pixels(inputs.SUBJECTS[number % 3], size)
                out = io.BytesIO()
                Image.fromarray(pixels).save(out, kind)
                made.append(
                    (f"{NAMES[number % len(NAMES)]}.{suffix}", out.getvalue(), f"image/{kind.lower()}")
                )
        return made

    def photo(self, rng: random.Random) -> tuple[str, bytes, str]:
        """Return a photo by chance."""
        return rng.choice(self.photos)

    def another(self) -> bytes:
        """Return a small photo that was not sent before."""
        self.seed += 1
        return photo_bytes(64, 48, seed=self.seed)

    @cached_property
    def strokes(self) -> bytes:
        return stroke_mask(20, 20, 60, 40)

    @cached_property
    def truncated(self) -> bytes:
        whole = inputs.jpeg("coffee", 0.1)
        return whole[: len(whole) // 3]

    @cached_property
    def rubbish(self) -> list[tuple[bytes, str, str]]:
        """Contents and names of files that are refused, with the status and the code of the answer."""
        noise = np.random.default_rng(0).bytes(200_000)
        png = photo_bytes(64, 48)
        return [
            (self.truncated, "truncated.jpg", "400 INVALID_IMAGE"),
            (png[:60], "truncated.png", "400 INVALID_IMAGE"),
            (png[:100] + noise, "broken.png", "400 INVALID_IMAGE"),
            (b"", "empty.jpg", "400 INVALID_IMAGE"),
            (noise, "noise.jpg", "415 UNSUPPORTED_FORMAT"),
            (b"%PDF-1.7 " + noise, "paper.pdf", "415 UNSUPPORTED_FORMAT"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg", "415 UNSUPPORTED_FORMAT"),
            (b"MZ" + noise, "photo.jpg.exe", "415 UNSUPPORTED_FORMAT"),
            (thin_picture(8000, 8000), "bomb.png", "413 IMAGE_TOO_LARGE"),
            (thin_picture(20_000, 100), "strip.png", "413 IMAGE_TOO_LARGE"),
        ]
