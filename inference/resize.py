"""Bytes of a photo to floats of a network's size."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Times as many pixels as the result has; above it gathering the pixels that count is faster.
LARGE = 4


def resize_bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C] as `F.interpolate` does, corners not aligned.

    Without antialias each result is made of four pixels. Of a large photo only those are made floats: all of twelve
    megapixels would take 144 MB, and three times as long.
    """
    if image.shape[0] * image.shape[1] <= LARGE * height * width:
        planes = image.permute(2, 0, 1)[None].float()
        return F.interpolate(planes, size=(height, width), mode="bilinear")[0].permute(1, 2, 0)
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
