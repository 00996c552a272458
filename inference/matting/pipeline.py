"""The recipes: compute a cut-out's colours and alpha from a photo and the network's mask of it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

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
    that of its mask (see `review.uncertainty_of`), None without a mask. `coverage`, uint8 [H,W], is what the colours are
    cleaned by, None if they are not.
    """

    rgb: Tensor = field(repr=False)
    alpha: Tensor = field(repr=False)
    no_foreground: bool
    uncertainty: Tensor | None = field(default=None, repr=False)
    coverage: Tensor | None = field(default=None, repr=False)

    def part(self, box: Box) -> "Matte":
        """Return the matte of a part of the photo."""
        rgb, alpha = _part(self.rgb, box), _part(self.alpha, box)
        coverage = None if self.coverage is None else _part(self.coverage, box)
        return replace(self, rgb=rgb, alpha=alpha, coverage=coverage)


@dataclass(frozen=True)
class Seen:
    """What the network saw in a photo, and what that is when it is refined; the hints change nothing of it.

    `whole` is the mask of the photo, float [1,1,h,w], None if no subject was found; `merged`, of the same kind, is that
    of the crop `box`, if the network looked twice and is to be trusted there. `alpha`, float32 [H,W], and `coverage`,
    uint8 [H,W], have all that the network marked, since how wide the lens makes an edge is found on all of it; they
    are None without a subject, or if the recipe does not refine. `scale` is how many times larger the photo is than the copy
    that all of this is for.
    """

    whole: Tensor | None = field(default=None, repr=False)
    alpha: Tensor | None = field(default=None, repr=False)
    coverage: Tensor | None = field(default=None, repr=False)
    box: Box | None = None
    merged: Tensor | None = field(default=None, repr=False)
    scale: float = 1.0


def see(rgb: Tensor, recipe: Recipe, look: Look, scale: float = 1.0) -> Seen:
    """Run the network on a photo, uint8 [H,W,3], on the photo's device, and refine what it found as the recipe says.

    `look` is called for the photo first, then at most once more, for a crop of it. `scale` is as in `Seen`.
    """
    whole = look(rgb)
    if whole is None or not recipe.refines:
        return Seen(whole, scale=scale)
    alpha, coverage = refinement.refine(rgb, whole, scale=scale)
    height, width = rgb.shape[:2]
    box = crop_refinement.box_around(whole, height, width) if recipe.looks_twice else None
    second = None if box is None else look(_part(rgb, box))
    merged = None
    if box is not None and second is not None:
        merged = crop_refinement.merge(whole, second, box, height, width)
    if box is not None and merged is not None:
        _refine_box(rgb, alpha, coverage, box, merged, scale)
    return Seen(whole, alpha, coverage, box, merged, scale)


def cut_out(
    rgb: Tensor,
    own_alpha: Tensor | None,
    recipe: Recipe,
    seen: Seen,
    *,
    colours: bool = True,
    aim: Aim | None = None,
    ground: Tensor | None = None,
) -> Matte:
    """Cut the subject out of a photo, uint8 [H,W,3], on the photo's device; `seen` is what `see` returned for it.

    `own_alpha`, uint8 [H,W], is the photo's own transparency; the resulting alpha is multiplied by it. Without
    `colours` only the alpha is computed, and the photo's colours are returned unchanged. `aim` says what of the
    network's mask is meant; without it, all is.

    Raises:
        InvalidOptions: the parts of this photo cannot be told apart as `aim` asks.

    """
    height, width = rgb.shape[:2]
    chosen = None if seen.whole is None else parts.Chosen(seen.whole)
    if aim is not None and (seen.whole is not None or aim.keep_strokes is not None):
        chosen = parts.choose(seen.whole, aim, rgb, ground)
    if chosen is None:
        return Matte(rgb, rgb.new_zeros(height, width), no_foreground=True)
    uncertainty = uncertainty_of(chosen.mask)
    if recipe.refines:
        alpha, coverage = _chosen_part(rgb, seen, chosen)
        levels = to_levels(alpha)
    else:
        levels = coverage = to_levels(enlarge(chosen.mask, height, width))
    cleaned = refinement.clean_colours(rgb, coverage, seen.scale) if recipe.cleans and colours else rgb
    if own_alpha is not None:
        levels = to_levels(levels.float() * own_alpha / 255**2)
    kept = coverage if recipe.cleans else None
    return Matte(cleaned, levels, no_foreground=False, uncertainty=uncertainty, coverage=kept)


def run_recipes(recipes: Iterable[Recipe], device: torch.device) -> None:
    """Run every recipe on a small picture: CUDA loads each kernel on its first use, which takes seconds in all."""
    rgb = torch.randint(256, (256, 256, 3), dtype=torch.uint8, device=device)
    mask = torch.linspace(0, 1, 64, device=device).expand(1, 1, 64, 64)
    for recipe in recipes:
        matte = cut_out(rgb, None, recipe, see(rgb, recipe, lambda _: mask))
        scene = Scene(rgb, Box(0, 0, 256, 256), matte.rgb, matte.alpha)
        for options in (Options(), Options(background=(0, 0, 0))):
            compose(scene, options, DEFAULT_SIZES, lambda lines: lines.cpu().numpy())


def _chosen_part(rgb: Tensor, seen: Seen, chosen: parts.Chosen) -> tuple[Tensor, Tensor]:
    """Return alpha and coverage of what is chosen. What the hints change is refined too, and near it alone."""
    height, width = rgb.shape[:2]
    alpha, coverage, change = seen.alpha, seen.coverage, chosen.change
    if seen.whole is None or alpha is None or coverage is None:  # all there is comes from strokes
        return refinement.refine(rgb, chosen.mask, scale=seen.scale)
    if change is not None:
        other, other_coverage = _changed(rgb, seen, change, seen.whole)
        rows, columns = change.box.rows, change.box.columns
        near = enlarge(_near_in(change, change.box, height, width), change.box.height, change.box.width)
        alpha, coverage = alpha.clone(), coverage.clone()
        alpha[rows, columns] = torch.lerp(alpha[rows, columns], other, near)
        coverage[rows, columns] = torch.where(near >= 0.5, other_coverage, coverage[rows, columns])
    if chosen.weights is not None:
        shares = enlarge(chosen.weights, height, width)
        alpha = alpha * shares
        coverage = coverage * (shares >= 0.5)
    return alpha, coverage


def _changed(rgb: Tensor, seen: Seen, change: parts.Change, whole: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and coverage, in the box of a change, of the masks with that change, refined where it is."""
    (height, width), box = rgb.shape[:2], change.box

    def refined(mask: Tensor, of: Box) -> tuple[Tensor, Tensor]:
        return refinement.refine(_part(rgb, of), mask, _near_in(change, of, height, width), seen.scale)

    alpha, coverage = refined(crop_refinement.part_of(change.of(whole), box, height, width), box)
    if seen.merged is not None and seen.box is not None and (both := box.shared(seen.box)) is not None:
        again = refined(change.of_part(seen.merged, seen.box, height, width), seen.box)
        here, there = both.inside(box), both.inside(seen.box)
        for one, other in zip((alpha, coverage), again, strict=True):
            one[here.rows, here.columns] = other[there.rows, there.columns]
    return alpha, coverage


def _near_in(change: parts.Change, box: Box, height: int, width: int) -> Tensor:
    """Return where the refined alpha may change, float [1,1,h,w] of 0…1, in a box of the photo."""
    return crop_refinement.part_of(change.near, box, height, width)


def _refine_box(rgb: Tensor, alpha: Tensor, coverage: Tensor, box: Box, mask: Tensor, scale: float) -> None:
    """Replace a box of `alpha` and `coverage`, in place, with those of its mask."""
    found = refinement.refine(_part(rgb, box), mask, scale=scale)
    alpha[box.rows, box.columns], coverage[box.rows, box.columns] = found


def _part(rgb: Tensor, box: Box) -> Tensor:
    return rgb[box.rows, box.columns].contiguous()
