"""The recipes: compute a cut-out's colours and alpha from a photo and the network's mask of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cutout.inference.composition import Scene, compose
from cutout.inference.imaging.geometry import Box
from cutout.inference.imaging.hints import Aim
from cutout.inference.limits import DEFAULT_SIZES
from cutout.inference.matting import crop_refinement, parts, refinement
from cutout.inference.matting.mask import enlarge, to_levels
from cutout.inference.options import Options
from cutout.inference.review import uncertainty_of
from cutout.inference.tiers import Recipe

# Runs the network on a photo or a crop of one: uint8 [H,W,3] → its mask as `find_subject` returns it, or None.
Look = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Matte:
    """The foreground colours and the alpha matte of a photo.

    `rgb`, uint8 [H,W,3], are the subject's colours; `alpha`, uint8 [H,W], is 0 (background) … 255 (foreground).
    `no_foreground` is set if the network found no subject; `alpha` is then 0 everywhere. `uncertainty`, float32 [1], is
    that of its mask (see `review.uncertainty_of`), None without a mask.
    """

    rgb: Tensor = field(repr=False)
    alpha: Tensor = field(repr=False)
    no_foreground: bool
    uncertainty: Tensor | None = field(default=None, repr=False)


def cut_out(
    rgb: Tensor,
    own_alpha: Tensor | None,
    recipe: Recipe,
    look: Look,
    *,
    colours: bool = True,
    aim: Aim | None = None,
) -> Matte:
    """Cut the subject out of a photo, uint8 [H,W,3], on the photo's device.

    `own_alpha`, uint8 [H,W], is the photo's own transparency; the resulting alpha is multiplied by it. Without
    `colours` only the alpha is computed, and the photo's colours are returned unchanged. `aim` says which parts of the
    network's mask are meant; without it, all are.

    Raises:
        InvalidOptions: the parts of this photo cannot be told apart as `aim` asks.

    """
    height, width = rgb.shape[:2]
    whole = look(rgb)
    chosen = None
    if whole is not None:
        chosen = parts.Chosen(whole) if aim is None else parts.choose(whole, aim, height, width)
    if whole is None or chosen is None:
        return Matte(rgb, rgb.new_zeros(height, width), no_foreground=True)
    mask, weights = chosen.mask, chosen.weights
    uncertainty = uncertainty_of(mask)
    if recipe.refines:
        # Of all parts: how wide the lens makes an edge is found on all of them.
        alpha, coverage = refinement.refine(rgb, whole)
        if recipe.looks_twice:
            _look_again(rgb, whole, chosen, alpha, coverage, look)
        if weights is not None:
            shares = enlarge(weights, height, width)
            alpha.mul_(shares)
            coverage.mul_(shares >= 0.5)
        levels = to_levels(alpha)
    else:
        levels = coverage = to_levels(enlarge(mask, height, width))
    cleaned = refinement.clean_colours(rgb, coverage) if recipe.cleans and colours else rgb
    if own_alpha is not None:
        levels = to_levels(levels.float() * own_alpha / 255**2)
    return Matte(cleaned, levels, no_foreground=False, uncertainty=uncertainty)


def run_recipes(recipes: Iterable[Recipe], device: torch.device) -> None:
    """Run every recipe on a small picture: CUDA loads each kernel on its first use, which takes seconds in all."""
    rgb = torch.randint(256, (256, 256, 3), dtype=torch.uint8, device=device)
    mask = torch.linspace(0, 1, 64, device=device).expand(1, 1, 64, 64)
    for recipe in recipes:
        matte = cut_out(rgb, None, recipe, lambda _: mask)
        scene = Scene(rgb, Box(0, 0, 256, 256), matte.rgb, matte.alpha)
        for options in (Options(), Options(background=(0, 0, 0))):
            compose(scene, options, DEFAULT_SIZES, lambda lines: lines.cpu().numpy())


def _look_again(
    rgb: Tensor, mask: Tensor, chosen: parts.Chosen, alpha: Tensor, coverage: Tensor, look: Look
) -> None:
    """Replace a part of `alpha` and `coverage`, in place, with that of a second look at what is chosen, if it is reliable.

    Both have all subjects of the mask, also those that are not chosen.
    """
    height, width = rgb.shape[:2]
    box = crop_refinement.box_around(chosen.mask, height, width)
    if box is None:
        return
    part = rgb[box.rows, box.columns].contiguous()
    second = look(part)
    if second is None:
        return
    merged = crop_refinement.merge(mask, second, box, height, width, chosen.weights)
    if merged is not None:
        alpha[box.rows, box.columns], coverage[box.rows, box.columns] = refinement.refine(part, merged)
