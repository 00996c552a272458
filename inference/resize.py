"""Bytes of a photo to floats of a network's size."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Times as many pixels as the result has; above it gathering the pixels that count is faster.
LARGE = 4
# Times as long as its result, from which on a side is averaged over blocks before it is resized on a GPU.
STEEP = 32


def resize_bilinear(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C] as `F.interpolate` does, corners not aligned.

    Without antialias each result is made of four pixels. Of a large photo only those are made floats: all of twelve
    megapixels would take 144 MB, and three times as long. They are gathered along one axis and then along the other,
    in the order that keeps less between the two: whole rows of a strip of five million by two pixels would be 15 GB,
    its columns are 6 kB.
    """
    if image.shape[0] * image.shape[1] <= LARGE * height * width:
        planes = image.permute(2, 0, 1)[None].float()
        return F.interpolate(planes, size=(height, width), mode="bilinear")[0].permute(1, 2, 0)
    top, bottom, down = _neighbours(image.shape[0], height, image.device)
    left, right, across = _neighbours(image.shape[1], width, image.device)
    across = across[:, None]
    if height * image.shape[1] <= image.shape[0] * width:

        def row(index: Tensor) -> Tensor:
            line = image.index_select(0, index)
            return line.index_select(1, left).float().lerp_(line.index_select(1, right).float(), across)
    else:
        before, after = image.index_select(1, left), image.index_select(1, right)

        def row(index: Tensor) -> Tensor:
            return before.index_select(0, index).float().lerp_(after.index_select(0, index).float(), across)

    return row(top).lerp_(row(bottom), down[:, None, None])


def resize_antialiased(image: Tensor, height: int, width: int) -> Tensor:
    """Bring uint8 [H,W,C] to float32 [height,width,C], bilinear with antialias, within a level of Pillow's.

    On a CPU torch does it on bytes, as Pillow does, rounding included; on a GPU it has to be floats, and sides that
    shrink more than `STEEP` times are averaged first.
    """
    planes = image.permute(2, 0, 1)[None]
    if image.device.type != "cpu":
        planes = averaged(planes.float(), height, width)
    # Torch brings each row to its new width before it touches the columns. A picture that is high and narrow is turned
    # on its side, or what stands between the two steps would be a thousand times as large as the picture.
    is_narrow = planes.shape[2] * width > LARGE * max(planes.shape[2] * planes.shape[3], height * width)
    if is_narrow:
        planes = F.interpolate(
            planes.transpose(2, 3).contiguous(), size=(width, height), mode="bilinear", antialias=True
        ).transpose(2, 3)
    else:
        planes = F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)
    return planes[0].permute(1, 2, 0).float()


def averaged(planes: Tensor, height: int, width: int) -> Tensor:
    """Average float [1,C,H,W] over whole blocks, so that neither side is more than `STEEP` times its size to come.

    CUDA's kernel for antialias keeps the weights of a whole block of results in shared memory, and refuses from about
    95 times on. The blocks are an eighth of what one result covers, so its weights stay a triangle's.
    """
    blocks = [
        max(1, side // (STEEP // 4 * size)) if side > STEEP * size else 1
        for side, size in zip(planes.shape[2:], (height, width), strict=True)
    ]
    return planes if blocks == [1, 1] else F.avg_pool2d(planes, blocks, ceil_mode=True)


def _neighbours(source: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each of `size` places along an axis: the pixel before, the one after, and the weight of the latter."""
    place = ((torch.arange(size, device=device) + 0.5) * (source / size) - 0.5).clamp_(min=0)
    before = place.long()
    return before, (before + 1).clamp_(max=source - 1), place - before
