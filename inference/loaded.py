"""A photo on the device, at the size in which it is worked on."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from cutout.inference.backends.cuda import upload
from cutout.inference.imaging.decode import Photo
from cutout.inference.imaging.geometry import shrunk
from cutout.inference.imaging.hints import Marks
from cutout.inference.imaging.placing import scaled_down
from cutout.inference.imaging.resolution import Dpi


@dataclass(frozen=True)
class Loaded:
    """A photo on the device, made smaller if need be.

    `rgb`, uint8 [h,w,3], are its colours and `alpha`, uint8 [h,w], is its own transparency, or None. `width` and `height`
    are the size of its file, which hints refer to. `ground` are the colours on which strokes flood, if they are not to be
    those of `rgb` (see `parts.ground_of`); all else is as in `decode.Photo`.
    """

    rgb: Tensor = field(repr=False)
    alpha: Tensor | None = field(repr=False)
    width: int
    height: int
    notes: tuple[str, ...]
    dpi: Dpi | None
    profile: bytes | None = field(repr=False)
    ground: Tensor | None = field(default=None, repr=False)

    def marks(self, marks: Marks) -> Marks:
        """Return marks of the file's pixels as marks of these."""
        height, width = self.rgb.shape[:2]
        if (width, height) == (self.width, self.height):
            return marks
        return marks.rescaled(self.width, self.height, width, height)

    def smaller(self, most_pixels: int | None) -> float:
        """Return how many times smaller it is along each side than the photo in a result of at most so many pixels."""
        full = self.width, self.height
        if most_pixels is not None:
            full = shrunk(*full, most_pixels)
        return max(1.0, max(full) / max(self.rgb.shape[:2]))

    def scaled_down(self, most_pixels: int | None, ground: Tensor) -> "Loaded":
        """Return a copy of at most so many pixels, on which strokes flood on this ground."""
        if most_pixels is None:
            return replace(self, ground=ground)
        rgb, alpha = scaled_down(self.rgb, self.alpha, most_pixels)
        return replace(self, rgb=rgb, alpha=alpha, ground=ground)


def load(picture: Photo, most_pixels: int | None, device: torch.device) -> Loaded:
    """Copy a photo and its own alpha to the device, scaled down to at most so many pixels if it has more."""
    rgb = upload(picture.rgb, device)
    alpha = None if picture.alpha is None else upload(picture.alpha, device)
    if most_pixels is not None:
        rgb, alpha = scaled_down(rgb, alpha, most_pixels)
    return Loaded(rgb, alpha, picture.width, picture.height, picture.notes, picture.dpi, picture.profile)
