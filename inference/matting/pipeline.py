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
    `colours` only the alpha is computed, and the photo's colours are returned unchanged. `aim` says what of the
    network's mask is meant; without it, all is.

    `look` is called for the photo first, then at most once more, for a crop of it. `aim` changes neither, so the same
    masks give the same result under any other hints.

    Raises:
        InvalidOptions: the parts of this photo cannot be told apart as `aim` asks.

    """
    height, width = rgb.shape[:2]
    whole = look(rgb)
    seen = None if whole is None else _Seen(rgb, whole, recipe, look)
    chosen = None if whole is None else parts.Chosen(whole)
    if aim is not None and (whole is not None or aim.keep_strokes is not None):
        chosen = parts.choose(whole, aim, rgb)
    if chosen is None:
        return Matte(rgb, rgb.new_zeros(height, width), no_foreground=True)
    uncertainty = uncertainty_of(chosen.mask)
    if recipe.refines:
        alpha, coverage = _refined(rgb, seen, chosen)
        levels = to_levels(alpha)
    else:
        levels = coverage = to_levels(enlarge(chosen.mask, height, width))
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


class _Seen:
    """What the network saw in a photo: its mask, and in a crop of it, if it looked twice and is to be trusted there.

    `alpha`, float32 [H,W], and `coverage`, uint8 [H,W], are refined, with all parts that the network marked: how wide
    the lens makes an edge is found on all of them.
    """

    def __init__(self, rgb: Tensor, whole: Tensor, recipe: Recipe, look: Look) -> None:
        self._rgb, self._whole = rgb, whole
        self._box: Box | None = None
        self._merged: Tensor | None = None
        if not recipe.refines:
            return
        self.alpha, self.coverage = refinement.refine(rgb, whole)
        if recipe.looks_twice:
            self._look_again(look)

    def _look_again(self, look: Look) -> None:
        height, width = self._rgb.shape[:2]
        box = crop_refinement.box_around(self._whole, height, width)
        if box is None:
            return
        second = look(self._part(box))
        if second is None:
            return
        self._merged = crop_refinement.merge(self._whole, second, box, height, width)
        self._box = box
        self._refine_crop(self.alpha, self.coverage, self._merged)

    def changed(self, change: parts.Change) -> tuple[Tensor, Tensor]:
        """Return alpha and coverage of the masks with a change, refined."""
        height, width = self._rgb.shape[:2]
        alpha, coverage = refinement.refine(self._rgb, change.of(self._whole))
        if self._merged is not None and self._box is not None:
            part = change.within(self._box, height, width, self._merged.shape[-1])
            self._refine_crop(alpha, coverage, part.of(self._merged))
        return alpha, coverage

    def _refine_crop(self, alpha: Tensor, coverage: Tensor, mask: Tensor | None) -> None:
        """Replace a part of `alpha` and `coverage`, in place, with that of the crop's mask, if there is one."""
        box = self._box
        if mask is not None and box is not None:
            alpha[box.rows, box.columns], coverage[box.rows, box.columns] = refinement.refine(
                self._part(box), mask
            )

    def _part(self, box: Box) -> Tensor:
        return self._rgb[box.rows, box.columns].contiguous()


def _refined(rgb: Tensor, seen: _Seen | None, chosen: parts.Chosen) -> tuple[Tensor, Tensor]:
    """Return alpha and coverage of what is chosen. What the hints change is refined too, and near it alone."""
    height, width = rgb.shape[:2]
    change = chosen.change
    if seen is None:  # all there is comes from strokes
        return refinement.refine(rgb, chosen.mask)
    alpha, coverage = seen.alpha, seen.coverage
    if change is not None:
        other, other_coverage = seen.changed(change)
        near = enlarge(change.near, height, width)
        alpha = torch.lerp(alpha, other, near)
        coverage = torch.where(near >= 0.5, other_coverage, coverage)
    if chosen.weights is not None:
        shares = enlarge(chosen.weights, height, width)
        alpha.mul_(shares)
        coverage.mul_(shares >= 0.5)
    return alpha, coverage
