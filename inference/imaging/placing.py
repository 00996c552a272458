"""Placing of a subject on a canvas: finding its box, scaling it, and laying it down."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutout.inference.imaging.geometry import Box, Placement, shrunk
from cutout.inference.imaging.resize import resize_planes


def lines_of(alpha: Tensor) -> Tensor:
    """Return what `box_of` and `sum_of` need of an alpha, uint8 [H,W]: float32 [H+W], the sum of each row and the highest
    level of each column.
    """
    return torch.cat([alpha.sum(1, dtype=torch.int32).float(), alpha.amax(0).float()])


def box_of(lines: npt.NDArray[np.float32], height: int) -> Box | None:
    """Return the box of all pixels of an alpha that are not 0, from its `lines_of` on the host; None if all are."""
    rows, columns = np.flatnonzero(lines[:height]).tolist(), np.flatnonzero(lines[height:]).tolist()
    if not rows:
        return None
    return Box(columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)


def lay_down(rgb: Tensor, alpha: Tensor, box: Box, placement: Placement) -> tuple[Tensor, Tensor]:
    """Lay the part of a picture in `box` down on an empty canvas, scaled to the placement's box.

    Takes and returns colours, uint8 [H,W,3], and alpha, uint8 [H,W]. Without scaling, all pixels stay as they are.
    """
    place = placement.subject
    colours, opacity = rgb[box.rows, box.columns], alpha[box.rows, box.columns]
    if (place.width, place.height) != (box.width, box.height):
        colours, opacity = _scaled(colours, opacity, place.height, place.width)
    if place == Box(0, 0, placement.width, placement.height):
        return colours.contiguous(), opacity.contiguous()
    rgb_canvas = rgb.new_zeros(placement.height, placement.width, 3)
    alpha_canvas = alpha.new_zeros(placement.height, placement.width)
    rgb_canvas[place.rows, place.columns] = colours
    alpha_canvas[place.rows, place.columns] = opacity
    return rgb_canvas, alpha_canvas


def scaled_down(rgb: Tensor, alpha: Tensor | None, most_pixels: int) -> tuple[Tensor, Tensor | None]:
    """Scale a photo, uint8 [H,W,3], and its own alpha, uint8 [H,W] or None, down to at most so many pixels."""
    height, width = rgb.shape[:2]
    if height * width <= most_pixels:
        return rgb, alpha
    size = shrunk(width, height, most_pixels)[::-1]
    if alpha is None:
        planes = _resized(rgb.permute(2, 0, 1)[None], *size)
        return planes[0].permute(1, 2, 0).contiguous(), None
    return _scaled(rgb, alpha, *size)


def _scaled(rgb: Tensor, alpha: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Resize with premultiplied colours, so that transparent pixels lend no colour to others."""
    opacity = alpha[None, None].float()
    planes = torch.cat([rgb.permute(2, 0, 1)[None].float().mul_(opacity / 255), opacity], 1)
    resized = resize_planes(planes, height, width)[0]
    levels = resized[3]
    colours = resized[:3].mul_(255).div_(levels.clamp(min=1)).round_().clamp_(0, 255).to(torch.uint8)
    return colours.permute(1, 2, 0).contiguous(), levels.round().clamp_(0, 255).to(torch.uint8)


def _resized(planes: Tensor, height: int, width: int) -> Tensor:
    if planes.device.type == "cpu":
        return resize_planes(planes, height, width)
    return resize_planes(planes.float(), height, width).round_().clamp_(0, 255).to(torch.uint8)
