"""Animations for tests: a red disc that moves over a blue ground, and a network that finds it."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cutout.inference.imaging.animation import Frame, read_animation, read_frames
from tests.fakes import FakeRunner

Pixels = npt.NDArray[np.uint8]
RED, BLUE = (220, 40, 40), (40, 60, 200)


class RedRunner(FakeRunner):
    """Finds what is more red than blue, and remembers how many photos each run had."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[int] = []

    def run(self, pixels: Tensor) -> Tensor:
        self.before()
        self.runs.append(len(pixels))
        red = (pixels[:, :1] > pixels[:, 2:]).float()
        return F.avg_pool2d(red, 5, 1, 2)


def moving_disc(
    frames: int, width: int = 64, height: int = 48, step: int = 4, radius: float = 9
) -> list[Pixels]:
    """Draw frames, uint8 [H,W,3], of a disc that moves to the right by `step` pixels each."""
    return [drawn(disc(width, height, 14 + step * index, radius)) for index in range(frames)]


def disc(width: int, height: int, across: float, radius: float) -> npt.NDArray[np.float64]:
    """Return the alpha of a disc in the middle row, [H,W] of 0…1."""
    rows, columns = np.mgrid[:height, :width] + 0.5
    distance: npt.NDArray[np.float64] = np.hypot(columns - across, rows - height / 2)
    alpha: npt.NDArray[np.float64] = np.clip(radius - distance + 0.5, 0, 1)
    return alpha


def drawn(alpha: npt.NDArray[np.float64]) -> Pixels:
    """Return a red subject with this alpha over blue, uint8 [H,W,3]."""
    share = alpha[..., None]
    mixed: Pixels = np.rint(share * np.array(RED) + (1 - share) * np.array(BLUE)).astype(np.uint8)
    return mixed


def animation_of(
    frames: Sequence[Pixels], file_format: str = "PNG", duration: Any = 40, **options: Any
) -> bytes:
    """Encode frames by Pillow, losslessly but for a GIF's colours."""
    out = io.BytesIO()
    first, *others = map(Image.fromarray, frames)
    lossless = {"lossless": True} if file_format == "WEBP" else {}
    first.save(
        out,
        file_format,
        save_all=True,
        append_images=others,
        duration=duration,
        **{"loop": 0} | lossless | options,
    )
    return out.getvalue()


def frames_of(data: bytes) -> list[Frame]:
    """Decode all frames of an animation."""
    animation = read_animation(data)
    assert animation is not None
    return list(read_frames(data, animation))


def durations_of(data: bytes) -> list[Fraction]:
    """Return for how many milliseconds each frame is shown."""
    return [frame.milliseconds for frame in frames_of(data)]


def opacity_of(frame: Frame) -> Pixels:
    """Return the alpha of a frame, uint8 [H,W], also if all of it is opaque."""
    alpha = frame.photo.alpha
    return np.full(frame.photo.rgb.shape[:2], 255, np.uint8) if alpha is None else alpha


def on_device(pixels: Pixels) -> Tensor:
    """Return pixels as a tensor."""
    return torch.from_numpy(pixels)
