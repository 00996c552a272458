"""A fake network for the real engine, which takes no time, and small photos."""

import io
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from cutout.inference.backends.runners import Serving
from cutout.inference.engine import Engine
from cutout.inference.imaging.decode import Photo
from cutout.inference.limits import Limits
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import find

# Time limit in seconds after which a wait fails: far longer than any step takes on a busy host.
PATIENCE = 120.0
# The default of `CUTOUT_LEASE_SECONDS`.
LEASE = timedelta(seconds=30)
BLUE = (60, 80, 170)
# With a smaller input than the real one's, since most of the time of a fake removal would go into resizing.
CHECKPOINT = replace(find("isnet-general"), input_size=256)
SMALL = Limits(threads=3)


class FakeRunner:
    """Finds a disc in the middle of every photo, in no time; `before` is called before each run."""

    backend = "fake"

    def __init__(self, before: Callable[[], None] = lambda: None, radius: float = 0.3) -> None:
        self.before = before
        self.radius = radius
        self.device = torch.device("cpu")

    def run(self, pixels: Tensor) -> Tensor:
        self.before()
        size = pixels.shape[-1]
        return disc_mask(size, self.radius).expand(len(pixels), 1, size, size).to(pixels.device, copy=True)

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))


@cache
def disc_mask(size: int, radius: float) -> Tensor:
    """Return a mask of a soft-edged disc, float32 [size,size]; `radius` is a fraction of the side."""
    axis = torch.linspace(-0.5, 0.5, size)
    distance = (axis[:, None] ** 2 + axis**2).sqrt()
    return torch.sigmoid((radius - distance) * 200)


def fake_engine(runner: FakeRunner | None = None, limits: Limits = SMALL) -> Engine:
    """Build a real engine on a fake runner that serves all tiers."""
    runner = runner or FakeRunner()
    serving = {tier: Serving(Choice(tier, CHECKPOINT, ()), runner) for tier in Tier}
    return Engine(serving, limits)


def photo_bytes(width: int = 40, height: int = 30, file_format: str = "PNG", seed: int = 0) -> bytes:
    """Encode an image of random pixels."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, file_format)
    return out.getvalue()


@cache
def thin_picture(width: int, height: int) -> bytes:
    """Encode an image of one colour: a few kilobytes for millions of pixels."""
    out = io.BytesIO()
    Image.new("L", (width, height), 90).save(out, "PNG", compress_level=1)
    return out.getvalue()


def stroke_mask(left: int, top: int, right: int, bottom: int) -> bytes:
    """Encode a black picture of 100 × 100 pixels with a white rectangle."""
    picture, out = Image.new("L", (100, 100)), io.BytesIO()
    picture.paste(255, (left, top, right, bottom))
    picture.save(out, "PNG")
    return out.getvalue()


def photo_with_disc(
    height: int, width: int, radius: float, colour: tuple[int, int, int] = (200, 60, 50)
) -> tuple[Photo, npt.NDArray[np.float32]]:
    """Return a blue photo with some grain and a disc in its middle, and its true alpha, [H,W] in 0…1."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    distance = np.hypot(rows + 0.5 - height / 2, columns + 0.5 - width / 2)
    alpha = np.clip((radius - distance) / 1.5 + 0.5, 0, 1)
    mixed = alpha[..., None] * np.array(colour, np.float32) + (1 - alpha[..., None]) * np.array(
        BLUE, np.float32
    )
    mixed += np.random.default_rng(0).normal(0, 2, mixed.shape)
    return Photo(np.clip(np.rint(mixed), 0, 255).astype(np.uint8)), alpha


def open_picture(data: bytes) -> Image.Image:
    """Decode a result with Pillow only."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def wait_until(condition: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Wait for what another thread is about to do; a test that would hang fails instead."""
    deadline, pause = time.monotonic() + patience, 0.001
    while not condition():
        assert time.monotonic() < deadline, f"not so within {patience:g} s"
        time.sleep(pause)
        pause = min(2 * pause, 0.05)  # Polling takes CPU time that the other thread needs.


def files_below(folder: Path) -> list[Path]:
    """Return the files in a folder and all below it, also while others remove them."""
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def held_until(event: threading.Event, patience: float = PATIENCE) -> None:
    """Block a fake device until the test sets the event."""
    assert event.wait(patience)
