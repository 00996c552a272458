"""The photo as the network wants it, and the network's mask as an alpha of the photo's size."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.errors import NetworkFailed
from cutout.inference.imaging.resize import resize_antialiased, resize_bilinear
from cutout.models.catalog import Checkpoint

# A mask with no pixel above this has no subject: the network calls every pixel background. Measured with
# isnet-general, the highest value of a mask is at most 0.33 on plain colours, gradients, noise, grass and
# gravel, and at least 0.99 on photos with a subject, down to one of 30 pixels across in 800.
FOREGROUND = 0.5

# A network's background is not quite 0: here and there it says 1 to 3 of 255, or a little more in a speck of a few pixels.
# Nobody sees that, and it has every tool that crops to what is there keep the whole canvas. So a value counts near a part of
# the subject, and a faint one only next to one that is not: the far end of a soft edge goes on falling from there.
#
# A part of the subject is a cell, 1/128 of the mask a side, that holds this on the mean: a hair across it, one pixel wide
# and a third opaque, has 0.04, and a speck as networks leave them 0.002. A value counts within three cells of it.
SUBJECT, SUBJECT_CELLS, SUBJECT_REACH = 0.02, 128, 3
# A cell, 1/256 of the mask a side, is not faint if any of its values shows; faint ones count within two cells of it.
SHOWN, SHOWN_CELLS, SHOWN_REACH = 3.5 / 255, 256, 2


def to_pixels(rgb: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Bring a photo, uint8 [H,W,3], to the network's input, float32 [1,3,S,S], on the photo's device.

    Bilinear with or without antialias, /255, less mean, over std, as each network's authors publish it.
    """
    size = checkpoint.input_size
    resize = resize_antialiased if checkpoint.antialias else resize_bilinear
    pixels = resize(rgb, size, size).permute(2, 0, 1)[None].contiguous()
    mean = torch.tensor(checkpoint.mean, device=rgb.device).view(1, 3, 1, 1)
    std = torch.tensor(checkpoint.std, device=rgb.device).view(1, 3, 1, 1)
    return pixels.div_(255).sub_(mean).div_(std)


def find_subject(mask: Tensor, checkpoint: Checkpoint) -> Tensor | None:
    """Make a network's mask, float [1,1,S,S] of 0…1, one to build on; None where it shows no subject.

    Where the checkpoint asks for it, the mask is stretched from its own minimum … maximum to 0…1, as published. A
    mask without a background is not: that would make a picture of noise.

    Raises:
        NetworkFailed: the mask holds no numbers.

    """
    lowest, highest = torch.stack(mask.aminmax()).tolist()
    if not math.isfinite(highest):
        raise NetworkFailed(
            f"{checkpoint.name} gave no numbers for this photo; if others fail too, set CUTOUT_PRECISION=float32."
        )
    if highest < FOREGROUND:
        return None
    mask = mask.float()
    if checkpoint.stretch and lowest < FOREGROUND:
        mask = (mask - lowest) / (highest - lowest)
    return without_specks(mask)


def without_specks(mask: Tensor) -> Tensor:
    """Make the background beyond the subject's soft edge exactly 0, in float [1,1,h,w] of 0…1; the rest comes back as it is."""
    side = max(1, max(mask.shape) // SUBJECT_CELLS)
    mask = mask * _near(F.avg_pool2d(mask, side, ceil_mode=True) >= SUBJECT, SUBJECT_REACH, side, mask)
    side = max(1, max(mask.shape) // SHOWN_CELLS)
    return mask * _near(F.max_pool2d(mask, side, ceil_mode=True) >= SHOWN, SHOWN_REACH, side, mask)


def _near(cells: Tensor, reach: int, side: int, like: Tensor) -> Tensor:
    """Mark in 0 and 1, as large as the mask `like`, what is within `reach` of the marked cells of `side` pixels each."""
    near = F.max_pool2d(cells.to(like.dtype), 2 * reach + 1, 1, reach)
    marked = near.repeat_interleave(side, 2).repeat_interleave(side, 3)
    return marked[:, :, : like.shape[2], : like.shape[3]]


def enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    """Bring a mask, float [1,1,h,w], to an alpha of the photo's size, float32 [height,width], bilinearly."""
    size = (height, width)
    return F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False)[0, 0]


def to_levels(alpha: Tensor) -> Tensor:
    """Round an alpha of 0…1 to uint8."""
    return (alpha * 255).round_().clamp_(0, 255).to(torch.uint8)
