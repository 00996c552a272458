"""What bounds an engine: its memory, and its callers' waiting."""

import os
from dataclasses import dataclass

from cutout.inference.errors import PhotoTooLarge

# A row or a column costs about so many pixels beside its own: Pillow's pointer to it, its place among the mask's cells
# and the weights of its neighbours there, 50 bytes or so. It is next to nothing but in pictures a few pixels thin.
PIXELS_OF_A_LINE = 2


def pixels_of(width: int, height: int) -> int:
    """Return how many pixels a picture counts as while it is in work, its rows and columns included."""
    return width * height + PIXELS_OF_A_LINE * (width + height)


@dataclass(frozen=True)
class SizeLimits:
    """The largest picture that is taken: `pixels` in all, `side` of them along one side, and how many times as long as wide.

    A network sees a square of about a thousand pixels a side: of a strip that is a hundred times as long as wide it sees
    nothing that a mask could be made of.
    """

    pixels: int = 50_000_000
    side: int = 32_768
    ratio: float = 100.0

    def check(self, width: int, height: int) -> None:
        """Return if a picture of this size is taken.

        Raises:
            PhotoTooLarge: it is too large, too long or too thin; the message names the limit and its setting.

        """
        found = f"The picture has {width} × {height} pixels"
        if width * height > self.pixels:
            raise PhotoTooLarge(
                f"{found}; at most {self.pixels / 1e6:g} megapixels are taken (CUTOUT_MAX_MEGAPIXELS). Scale it down and"
                " retry."
            )
        longer, shorter = max(width, height), min(width, height)
        if longer > self.side:
            raise PhotoTooLarge(
                f"{found}; at most {self.side:,} a side are taken (CUTOUT_MAX_SIDE). Scale it down or crop it and retry."
            )
        if longer > self.ratio * max(shorter, 1):
            raise PhotoTooLarge(
                f"{found}; at most {self.ratio:g} times as long as wide is taken (CUTOUT_MAX_RATIO), since no network"
                " sees anything in a thinner one. Crop it and retry."
            )


DEFAULT_SIZES = SizeLimits()


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
