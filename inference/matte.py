"""The photo as the network wants it, and the network's mask as an alpha of the photo's size."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.photo import Photo, Pixels
from models.catalog import Checkpoint

# A mask with no pixel above this has no subject: the network calls every pixel background. Measured with
# isnet-general, the highest value of a mask is at most 0.33 on plain colours, gradients, noise, grass and
# gravel, and at least 0.99 on photos with a subject, down to one of 30 pixels across in 800.
FOREGROUND = 0.5


@dataclass(frozen=True)
class Matte:
    """`alpha` is uint8 [H,W], 0 (background) … 255 (foreground), of the photo's size.

    `no_foreground` says that the network found no subject; `alpha` is 0 everywhere then.
    """

    alpha: Pixels
    no_foreground: bool


def to_pixels(photo: Photo, checkpoint: Checkpoint, device: torch.device) -> Tensor:
    """Bring a photo to the network's input, float32 [1,3,S,S] on `device`.

    Bilinear with or without antialias, /255, less mean, over std, as each network's authors publish it.
    """
    size = checkpoint.input_size
    rgb = torch.from_numpy(photo.rgb).to(device)
    resize = resize_antialiased if checkpoint.antialias else resize_bilinear
    pixels = resize(rgb, size, size).permute(2, 0, 1)[None].contiguous()
    mean = torch.tensor(checkpoint.mean, device=device).view(1, 3, 1, 1)
    std = torch.tensor(checkpoint.std, device=device).view(1, 3, 1, 1)
    return pixels.div_(255).sub_(mean).div_(std)


def resize_bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C] as `F.interpolate` does, corners not aligned.

    Without antialias each result is made of four pixels. Only those are made floats: a whole photo of
    twelve megapixels would take 144 MB.
    """
    top, bottom, down = _neighbours(image.shape[0], height, image.device)
    left, right, across = _neighbours(image.shape[1], width, image.device)
    across = across[:, None]

    def row(index: Tensor) -> Tensor:
        line = image.index_select(0, index)
        return line.index_select(1, left).float().lerp_(line.index_select(1, right).float(), across)

    return row(top).lerp_(row(bottom), down[:, None, None])


def resize_antialiased(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C], bilinear with antialias, within a level of Pillow's.

    On a CPU torch does it on bytes, as Pillow does, rounding included; on a GPU it has to be floats.
    """
    planes = image.permute(2, 0, 1)[None]
    if image.device.type != "cpu":
        planes = planes.float()
    planes = F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).float()


def _neighbours(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` places along an axis: the pixel before, the one after, and the weight of the latter."""
    place = ((torch.arange(size, device=device) + 0.5) * (source / size) - 0.5).clamp_(min=0)
    before = place.long()
    return before, (before + 1).clamp_(max=source - 1), place - before


def to_matte(mask: Tensor, photo: Photo, checkpoint: Checkpoint) -> Matte:
    """Bring a mask, float [1,1,S,S] of 0…1, to the photo's size, and multiply the photo's own alpha in.

    Where the checkpoint asks for it, the mask is stretched from its own minimum … maximum to 0…1, as
    published. A mask without a subject, or without a background, is not: that would make a picture of noise.
    """
    lowest, highest = (float(value) for value in mask.aminmax())
    if highest < FOREGROUND:
        return Matte(np.zeros((photo.height, photo.width), np.uint8), no_foreground=True)

    alpha = F.interpolate(
        mask.float(), size=(photo.height, photo.width), mode="bilinear", align_corners=False
    )
    if checkpoint.stretch and lowest < FOREGROUND:
        lowest, highest = (float(value) for value in alpha.aminmax())
        alpha = alpha.sub_(lowest).div_(max(highest - lowest, 1e-6))
    if photo.alpha is not None:
        alpha = alpha.mul_(torch.from_numpy(photo.alpha).to(alpha.device)).div_(255)
    levels = alpha.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
    return Matte(levels[0, 0].cpu().numpy(), no_foreground=False)
