"""The recipes: from a photo and a network's look at it to the cut-out's colours and alpha."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from inference import edges, second_look
from inference.matte import enlarge, to_levels
from inference.photo import Photo, Pixels
from inference.tiers import Recipe

# Shows a photo to the network: its mask as `find_subject` gives it, float [1,1,S,S], or None.
Look = Callable[[Photo], Tensor | None]


@dataclass(frozen=True)
class Matte:
    """`rgb`, uint8 [H,W,3], are the subject's colours; `alpha`, uint8 [H,W], is 0 (background) … 255 (foreground).

    `no_foreground` says that the network found no subject; `alpha` is 0 everywhere then.
    """

    rgb: Pixels
    alpha: Pixels
    no_foreground: bool


def cut_out(photo: Photo, recipe: Recipe, look: Look) -> Matte:
    """Cut the subject out of a photo. What the photo has of its own transparency is kept."""
    mask = look(photo)
    if mask is None:
        return Matte(photo.rgb, np.zeros((photo.height, photo.width), np.uint8), no_foreground=True)
    rgb = torch.from_numpy(photo.rgb).to(mask.device)
    alpha = edges.refine_alpha(rgb, mask) if recipe.refines else enlarge(mask, photo.height, photo.width)
    if recipe.looks_twice:
        _look_again(photo, rgb, mask, alpha, look)
    levels = to_levels(alpha)
    colours = edges.clean_colours(rgb, levels) if recipe.cleans else rgb
    if photo.alpha is not None:
        own = torch.from_numpy(photo.alpha).to(levels.device)
        levels = to_levels(levels.float() * own / 255**2)
    return Matte(colours.cpu().numpy(), levels.cpu().numpy(), no_foreground=False)


def _look_again(photo: Photo, rgb: Tensor, mask: Tensor, alpha: Tensor, look: Look) -> None:
    """Put the second look's alpha in place of the first one's, where it can be believed."""
    box = second_look.box_around(mask, photo.height, photo.width)
    if box is None:
        return
    second = look(box.of(photo))
    if second is None:
        return
    merged = second_look.merge(mask, second, box, photo.height, photo.width)
    if merged is not None:
        alpha[box.rows, box.columns] = edges.refine_alpha(rgb[box.rows, box.columns].contiguous(), merged)
