"""The range of a photo's levels."""

from torch import Tensor

from cutout.models.catalog import Checkpoint


def levelled(rgb: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Return a photo, uint8 [H,W,3], as its checkpoint wants it: if it is to `brighten`, with 255 as its highest level.

    Levels are rounded, which changes them by half a level at most. A photo that is all black stays as it is.
    """
    if not checkpoint.brighten:
        return rgb
    highest = int(rgb.max())
    if highest in (0, 255):
        return rgb
    return (rgb.float() * (255 / highest)).round_().to(rgb.dtype)
