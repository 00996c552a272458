"""The photo as the network wants it, and the network's mask as an alpha of the photo's size."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.errors import NetworkFailed
from inference.resize import resize_antialiased, resize_bilinear
from models.catalog import Checkpoint

# A mask with no pixel above this has no subject: the network calls every pixel background. Measured with
# isnet-general, the highest value of a mask is at most 0.33 on plain colours, gradients, noise, grass and
# gravel, and at least 0.99 on photos with a subject, down to one of 30 pixels across in 800.
FOREGROUND = 0.5


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
    return mask


def enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    """Bring a mask, float [1,1,h,w], to an alpha of the photo's size, float32 [height,width], bilinearly."""
    size = (height, width)
    return F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False)[0, 0]


def to_levels(alpha: Tensor) -> Tensor:
    """Round an alpha of 0…1 to uint8."""
    return (alpha * 255).round_().clamp_(0, 255).to(torch.uint8)
