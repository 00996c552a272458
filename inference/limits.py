"""Limits of an engine: its memory use, and how long its callers wait."""

from dataclasses import dataclass

from cutout.inference.cores import usable_cores
from cutout.inference.errors import PhotoTooLarge, ResultTooLarge

# The overhead of a row or a column, in pixels: Pillow's pointer to it, its index in the mask's cells and its weights
# there, about 50 bytes. It matters only for pictures that are a few pixels wide or high.
PIXELS_OF_A_LINE = 2


def pixels_of(width: int, height: int) -> int:
    """Return how many pixels of the budget a picture takes, including the overhead of its rows and columns."""
    return width * height + PIXELS_OF_A_LINE * (width + height)


@dataclass(frozen=True)
class SizeLimits:
    """The largest picture that is accepted: `pixels` in total, `side` along the longer side, and aspect `ratio`.

    An animation of which every frame is cut out has at most so many `frames`, and `animation_pixels` in all of them.

    A network's input is a square of about a thousand pixels a side. A strip that is a hundred times as long as it is
    wide shows nothing there from which a mask could be made.
    """

    pixels: int = 50_000_000
    side: int = 32_768
    ratio: float = 100.0
    frames: int = 200
    animation_pixels: int = 100_000_000

    def check(self, width: int, height: int) -> None:
        """Check that a picture of this size is accepted.

        Raises:
            PhotoTooLarge: the picture is too large, too long or too thin; the message names the limit and its setting.

        """
        found = f"The picture has {width} × {height} pixels"
        if width * height > self.pixels:
            raise PhotoTooLarge(
                f"{found}; at most {self.pixels / 1e6:g} megapixels are allowed (CUTOUT_MAX_MEGAPIXELS). Scale it down and"
                " retry."
            )
        longer, shorter = max(width, height), min(width, height)
        if longer > self.side:
            raise PhotoTooLarge(
                f"{found}; at most {self.side:,} per side are allowed (CUTOUT_MAX_SIDE). Scale it down or crop it and retry."
            )
        if longer > self.ratio * max(shorter, 1):
            raise PhotoTooLarge(
                f"{found}; it may be at most {self.ratio:g} times as long as wide (CUTOUT_MAX_RATIO), because a network"
                " cannot find a subject in a thinner one. Crop it and retry."
            )

    def check_animation(self, frames: int, width: int, height: int) -> None:
        """Check that an animation may have so many frames of this size; `frames` may be one more than the limit for any more.

        Raises:
            PhotoTooLarge: it may not; the message names the limit and its setting.

        """
        advice = "Shorten it or make it smaller and retry, or use its first frame alone (animation=first)."
        if frames > self.frames:
            raise PhotoTooLarge(
                f"The animation has more than {self.frames:,} frames, which is the limit (CUTOUT_MAX_FRAMES). {advice}"
            )
        if frames * width * height > self.animation_pixels:
            raise PhotoTooLarge(
                f"The animation has {frames:,} frames of {width} × {height} pixels; at most"
                f" {self.animation_pixels / 1e6:g} megapixels are allowed in all frames together"
                f" (CUTOUT_MAX_ANIMATION_MEGAPIXELS). {advice}"
            )

    def check_results(self, frames: int, width: int, height: int) -> None:
        """Check that the result of an animation may have so many frames of this size.

        Raises:
            ResultTooLarge: it may not; the message names the limit and its setting.

        """
        if frames * width * height > self.animation_pixels:
            raise ResultTooLarge(
                f"The result would have {frames:,} frames of {width} × {height} pixels; at most"
                f" {self.animation_pixels / 1e6:g} megapixels are allowed in all frames together"
                " (CUTOUT_MAX_ANIMATION_MEGAPIXELS). Choose a smaller canvas or margin, or shorten the animation."
            )

    def check_result(self, width: int, height: int) -> None:
        """Check that a result may have this size; it may be of any shape.

        Raises:
            ResultTooLarge: it may not; the message names what to change.

        """
        if width * height > self.pixels or max(width, height) > self.side:
            raise ResultTooLarge(
                f"The result would have {width} × {height} pixels; at most {self.pixels / 1e6:g} megapixels and"
                f" {self.side:,} a side are allowed. Choose a smaller canvas or margin."
            )


DEFAULT_SIZES = SizeLimits()


@dataclass(frozen=True)
class Limits:
    """Limits of an engine. None of them affects the quality of a result.

    - `threads`: the photos processed at once. The default is the number of cores plus one, and on a GPU also the
      photos of two batches.
    - `waiting`: the most photos that `submit` holds at once.
    - `seconds`: the deadline of each photo given to `submit`.
    - `sizes`: the largest photo that is accepted.
    - `pixels_in_work`: the most pixels that all photos being processed may have together. On a GPU the engine lowers it
      to what fits into the free memory after its warm-up.
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

    @property
    def longest_wait(self) -> float:
        """Return the seconds of waiting beyond which a photo is refused at once.

        It is half the deadline: a photo that has to wait longer would most likely be given up after all. The other half
        is for its own work, and for a host that slows down meanwhile.
        """
        return self.seconds / 2

    def batch_on(self, device: str) -> int:
        """Return the largest batch size for a device of this type."""
        return self.batch or (8 if device == "cuda" else 1)

    def threads_on(self, device: str) -> int:
        """Return the number of photos processed at once with a device of this type."""
        in_batches = 2 * self.batch_on(device) if device == "cuda" else 0
        return self.threads or 1 + usable_cores() + in_batches


DEFAULT_LIMITS = Limits()
