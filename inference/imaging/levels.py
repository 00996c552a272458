"""The range of a photo's levels."""

from torch import Tensor


def brightened(rgb: Tensor) -> Tensor:
    """Return a photo, uint8 [H,W,3], scaled so that its highest level is 255; one that is all black stays as it is.

    Levels are rounded, which changes them by half a level at most.
    """
    highest = int(rgb.max())
    if highest in (0, 255):
        return rgb
    return (rgb.float() * (255 / highest)).round_().to(rgb.dtype)
