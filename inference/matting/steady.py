"""Steadying of alpha over the frames of an animation: what does not move in the photo must not flicker in the cut-out.

A network sees each frame alone. Where two frames show the same, its masks differ by some levels, or by a whole part that
it is undecided about; in motion that is seen as flicker. So alpha is averaged over the frames for which a pixel and those
around it stay the same within the noise, and over no others: where something moves, each frame keeps its own alpha.

Two passes do that, as in a recursive edge-preserving filter along time. The first one goes forward and averages each pixel
since it last changed; it also keeps the average colour, with which the next frame is compared, so that a slow change adds
up until it is seen. The second one goes backward and hands the average at the end of each such interval to all of its
frames. Within an interval in which nothing changes, the result is exactly the same in all frames.
"""

import zlib
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from isal import isal_zlib
from torch import Tensor

from cutout.inference.matting.mask import to_levels

# Differences of colour, in levels of 255. Up to SAME, plus the noise, a pixel is the same; from OTHER, plus twice the
# noise, it is another one.
SAME, OTHER = 3.0, 8.0
# The noise is the median difference in a frame. Where most of a frame moves, that is no noise.
MOST_NOISE = 8.0
# Every so many pixels across and down are enough for the median.
SAMPLED = 4


@dataclass(frozen=True)
class _Packed:
    """Maps on the host, uint8 of any shape, deflated: they are smooth, and there is a set for each frame."""

    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, maps: Tensor) -> "_Packed":
        return cls(tuple(maps.shape), isal_zlib.compress(maps.contiguous().cpu().numpy().data, 1))

    def unpacked(self, device: torch.device) -> Tensor:
        levels = np.frombuffer(bytearray(zlib.decompress(self.data)), np.uint8)
        return torch.from_numpy(levels.reshape(self.shape)).to(device)


class Steadier:
    """Takes the maps of one frame after the other, then gives them back steadied."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._means: list[_Packed] = []
        # How much each frame is like the one before, 255 for the same; nothing for the first one.
        self._likeness: list[_Packed] = []
        self._colours = self._average = self._count = torch.empty(0)

    def add(self, rgb: Tensor, maps: Tensor) -> None:
        """Add a frame: its colours, uint8 [H,W,3], and what is to be steadied, uint8 [C,H,W] of 0…255."""
        colours, values = rgb.permute(2, 0, 1)[None].float(), maps.float()
        if not self._means:
            self._colours, self._average = colours, values
            self._count = torch.ones_like(values[:1])
        else:
            levels = to_levels(likeness(self._colours, colours))
            self._likeness.append(_Packed.of(levels))
            weight = self._count * levels.float() / 255
            self._count = weight + 1
            share = 1 / self._count
            self._colours = torch.lerp(self._colours, colours, share[None])
            self._average = torch.lerp(self._average, values, share)
        self._means.append(_Packed.of(to_levels(self._average / 255)))

    def finish(self) -> None:
        """End the first pass and do the second one. No frame can be added any more."""
        after = self._average
        for index in range(len(self._likeness) - 1, -1, -1):
            alike = self._likeness[index].unpacked(self._device).float() / 255
            after = torch.lerp(self._means[index].unpacked(self._device).float(), after, alike)
            self._means[index] = _Packed.of(to_levels(after / 255))
        self._likeness.clear()
        self._colours = self._average = self._count = torch.empty(0)

    def steadied(self, index: int) -> Tensor:
        """Return the steadied maps of a frame, from 0, uint8 [C,H,W]; `finish` was called before. Any thread may ask."""
        return self._means[index].unpacked(self._device)


def likeness(before: Tensor, after: Tensor) -> Tensor:
    """Return how much each pixel of a frame is like before, float32 [1,H,W] of 0 (another) … 1 (the same).

    Both are colours, float32 [1,3,H,W] of 0…255. A pixel is compared with those around it, so that noise averages out, and
    by both signed and absolute differences: of a hair that moves by its own width, the signed ones cancel out. It is no more
    like than its neighbours are: beside what moves, alpha changes before colours do.
    """
    difference = after - before
    changed = _mean(difference.abs(), 5).amax(1)
    noise = min(float(changed[:, ::SAMPLED, ::SAMPLED].median()), MOST_NOISE)
    found = torch.maximum(changed - noise, _mean(difference, 3).abs().amax(1))
    least, most = SAME + noise, OTHER + 2 * noise
    share = ((most - found) / (most - least)).clamp_(0, 1)
    alike = share * share * (3 - 2 * share)
    return -F.max_pool2d(-alike, 3, 1, 1)


def _mean(values: Tensor, side: int) -> Tensor:
    """Return the mean in a window of `side` × `side` pixels around each pixel, of those within the frame."""
    return F.avg_pool2d(values, side, 1, side // 2, count_include_pad=False)
