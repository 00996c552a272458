"""What bounds an engine: its memory, and its callers' waiting."""

import os
from dataclasses import dataclass

from cutout.inference.imaging.decode import DEFAULT_SIZES, SizeLimits


@dataclass(frozen=True)
class Limits:
    """Bounds of an engine, none of them of one photo's quality.

    `threads` photos are in work at once; by default one on each core and one more, and on a GPU as many again as fill
    two batches. At most `waiting` photos are held by `submit`, each for up to `seconds`. Photos beyond `sizes` are
    refused; those in work have up to `pixels_in_work` together. Batches are of up to `batch` photos, by default 8
    on a GPU and 1 on a CPU, where more save nothing; while the device has nothing to do, a batch waits `batch_wait`
    seconds for others to join.
    """

    threads: int | None = None
    waiting: int = 64
    seconds: float = 300.0
    sizes: SizeLimits = DEFAULT_SIZES
    pixels_in_work: int = 200_000_000
    batch: int | None = None
    batch_wait: float = 0.002

    def batch_on(self, device: str) -> int:
        """Return the largest batch on a device of this type."""
        return self.batch or (8 if device == "cuda" else 1)

    def threads_on(self, device: str) -> int:
        """Return the number of photos in work at once, with a device of this type."""
        in_batches = 2 * self.batch_on(device) if device == "cuda" else 0
        return self.threads or 1 + (os.cpu_count() or 1) + in_batches


DEFAULT_LIMITS = Limits()
