"""Limits of an engine: its memory use, and how long its callers wait."""

import os
from dataclasses import dataclass

from cutout.inference.imaging.decode import DEFAULT_SIZES, SizeLimits


@dataclass(frozen=True)
class Limits:
    """Limits of an engine. None of them affects the quality of a result.

    - `threads`: the photos processed at once. The default is the number of cores plus one, and on a GPU also the
      photos of two batches.
    - `waiting`: the most photos that `submit` holds at once.
    - `seconds`: the deadline of each photo given to `submit`.
    - `sizes`: the largest photo that is accepted.
    - `pixels_in_work`: the most pixels that all photos being processed may have together.
    - `batch`: the most photos in a batch. The default is 8 on a GPU and 1 on a CPU, where larger batches save nothing.
    - `batch_wait`: the seconds that a batch waits for more photos while the device is idle.
    """

    threads: int | None = None
    waiting: int = 64
    seconds: float = 300.0
    sizes: SizeLimits = DEFAULT_SIZES
    pixels_in_work: int = 200_000_000
    batch: int | None = None
    batch_wait: float = 0.002

    def batch_on(self, device: str) -> int:
        """Return the largest batch size for a device of this type."""
        return self.batch or (8 if device == "cuda" else 1)

    def threads_on(self, device: str) -> int:
        """Return the number of photos processed at once with a device of this type."""
        in_batches = 2 * self.batch_on(device) if device == "cuda" else 0
        return self.threads or 1 + (os.cpu_count() or 1) + in_batches


DEFAULT_LIMITS = Limits()
