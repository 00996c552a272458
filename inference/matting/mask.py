"""Pre- and post-processing of a network: photo to network input, and network mask to alpha of the photo's size."""

import math
from functools import cache
from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from cutout.inference.errors import NetworkFailed
from cutout.inference.imaging.resize import resize_antialiased, resize_bilinear
from cutout.inference.matting.faint_patches import cells_to_keep
from cutout.models.catalog import Checkpoint

# A mask with no value of at least this has no subject: the network considers every pixel background. Measured with
# isnet-general: the highest value of a mask is at most 0.33 on plain colours, gradients, noise, grass and gravel, and
# at least 0.99 on photos with a subject, even one that is 30 pixels wide in a photo of 800. It is
# not measured with other networks: docs/decisions/0002-no-subject.md.
FOREGROUND = 0.5

# A network's background is not exactly 0: some pixels have 1 to 3 of 255, or a little more in specks of a few pixels.
# They are invisible, but make every tool that crops to the visible part keep the whole canvas. So values are kept only
# near a part of the subject. Faint values are kept only near values that are not faint, as the far ends of soft edges.
#
# A cell, 1/128 of the mask a side, is a part of the subject if its mean is at least SUBJECT. Values are kept within
# three cells of such a cell. A cell that is crossed by a hair, one pixel wide and a third opaque, has a mean of 0.04; a
# cell with a typical speck has 0.002.
SUBJECT, SUBJECT_CELLS, SUBJECT_REACH = 0.02, 128, 3
# A cell, 1/256 of the mask a side, is not faint if any of its values is at least SHOWN. Faint values are kept only within
# two cells of such a cell.
SHOWN, SHOWN_CELLS, SHOWN_REACH = 3.5 / 255, 256, 2
# Cells that are not faint make up parts: two cells are of one part if they are within SHOWN_REACH of each other. A part
# without any value of at least SURE is a faint patch, and becomes background: docs/decisions/0024-faint-patches.md.
SURE = FOREGROUND


def to_pixels(rgb: Tensor, checkpoint: Checkpoint) -> Tensor:
    """Convert a photo, uint8 [H,W,3], to the network's input, float32 [1,3,S,S], on the photo's device.

    The photo is resized bilinearly, with or without antialiasing, divided by 255 and normalised by mean and std, as
    each network's authors publish it.
    """
    size = checkpoint.input_size
    mean, std = _normalisation(checkpoint.mean, checkpoint.std, rgb.device)
    if not checkpoint.antialias and rgb.shape[0] * rgb.shape[1] < size * size:
        # Both steps are linear: the one that makes more pixels comes last, and the other is done on fewer.
        planes = rgb.permute(2, 0, 1)[None].float().contiguous().div_(255).sub_(mean).div_(std)
        return F.interpolate(planes, size=(size, size), mode="bilinear")
    resize = resize_antialiased if checkpoint.antialias else resize_bilinear
    pixels = resize(rgb, size, size).permute(2, 0, 1)[None].contiguous()
    return pixels.div_(255).sub_(mean).div_(std)


@cache  # otherwise each photo would wait for a copy to the GPU
def _normalisation(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: torch.device
) -> Tensor:
    """Return mean and standard deviation, [2,1,3,1,1]."""
    return torch.tensor([mean, std], device=device).view(2, 1, 3, 1, 1)


def find_subject(mask: Tensor, checkpoint: Checkpoint) -> Tensor | None:
    """Post-process a network's mask, float [1,1,S,S] of 0…1; None if it shows no subject.

    If the checkpoint asks for it, the mask is stretched from its minimum … maximum to 0…1, as published. A mask
    without any background is not stretched, because that would amplify noise. Then the background beyond the subject's
    soft edge, specks and faint patches become exactly 0. All other values stay.

    Raises:
        NetworkFailed: the mask contains values that are not finite.

    """
    mask = mask.float()
    side = max(1, max(mask.shape) // SHOWN_CELLS)
    cells = F.max_pool2d(mask, side, ceil_mode=True)
    # One copy, because the host waits for each.
    values = torch.cat([cells.view(-1), mask.amin().view(1)]).cpu().numpy()
    lowest, highest = float(values[-1]), float(values[:-1].max())
    if not (math.isfinite(lowest) and math.isfinite(highest)):
        raise NetworkFailed(
            f"{checkpoint.name} returned invalid numbers for this photo; if other photos fail too, set CUTOUT_PRECISION=float32."
        )
    if highest < FOREGROUND:
        return None
    highest_of_cells = values[:-1].reshape(cells.shape[2:])
    if checkpoint.stretch and lowest < FOREGROUND:
        mask = (mask - lowest) / (highest - lowest)
        highest_of_cells = (highest_of_cells - lowest) / (highest - lowest)
    kept = cells_to_keep(highest_of_cells, SHOWN, SURE, SHOWN_REACH)
    return _near_subject(mask).mul_(_enlarged(uploaded(kept, mask.device), side, mask))


def _near_subject(mask: Tensor) -> Tensor:
    """Return a mask, float [1,1,h,w] of 0…1, without what is far from every part of a subject."""
    side = max(1, max(mask.shape) // SUBJECT_CELLS)
    cells = (F.avg_pool2d(mask, side, ceil_mode=True) >= SUBJECT).to(mask.dtype)
    near = F.max_pool2d(cells, 2 * SUBJECT_REACH + 1, 1, SUBJECT_REACH)
    return mask * _enlarged(near, side, mask)


def _enlarged(cells: Tensor, side: int, like: Tensor) -> Tensor:
    """Return a map of cells, [1,1,r,c], at the size of `like`; `side` is the side of a cell in pixels."""
    enlarged = cells.unsqueeze(3).unsqueeze(5).expand(-1, -1, -1, side, -1, side)
    return enlarged.flatten(2, 3).flatten(3)[:, :, : like.shape[2], : like.shape[3]]


def uploaded(cells: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Return a map of cells, [r,c], as [1,1,r,c] on a device, without waiting for it."""
    values = torch.from_numpy(cells)[None, None]
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values


def enlarge(mask: Tensor, height: int, width: int) -> Tensor:
    """Resize a mask, float [1,1,h,w], bilinearly to an alpha of the photo's size, float32 [height,width]."""
    size = (height, width)
    return F.interpolate(mask.float(), size=size, mode="bilinear", align_corners=False)[0, 0]


def to_levels(alpha: Tensor) -> Tensor:
    """Convert an alpha of 0…1 to rounded uint8 levels of 0…255."""
    return (alpha * 255).round_().clamp_(0, 255).to(torch.uint8)
