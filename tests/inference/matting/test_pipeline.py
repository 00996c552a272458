"""The pipelines of all tiers, each with a fake network."""

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cutout.inference.imaging.hints import Aim
from cutout.inference.matting import refinement
from cutout.inference.matting.pipeline import Matte, cut_out, run_recipes, see
from cutout.inference.tiers import SOLD, TIERS, Recipe
from tests.fakes import BLUE, photo_with_disc

pytestmark = pytest.mark.slow

HEIGHT, WIDTH, RADIUS = 600, 800, 70.0


class Network:
    """Fake network that returns the disc of `photo_with_disc` at 160², for whichever part of the photo it gets.

    `again` may change the mask of every call after the first.
    """

    def __init__(self, again: Callable[[Tensor], Tensor | None] = lambda mask: mask) -> None:
        self.again = again
        self.shown: list[tuple[int, int]] = []

    def look(self, part: Tensor) -> Tensor | None:
        height, width = part.shape[:2]
        self.shown.append((height, width))
        # Origin of the crop, which is centred on the disc.
        top, left = (HEIGHT - height) // 2, (WIDTH - width) // 2
        alpha = torch.from_numpy(ALPHA)[top : top + height, left : left + width]
        mask = torch.nn.functional.interpolate(alpha[None, None], size=(160, 160), mode="area")
        return mask if len(self.shown) == 1 else self.again(mask)


def disc(colour: tuple[int, int, int] = (200, 60, 50)) -> Tensor:
    return torch.from_numpy(photo_with_disc(HEIGHT, WIDTH, RADIUS, colour)[0].rgb)


PHOTO = disc()
ALPHA = photo_with_disc(HEIGHT, WIDTH, RADIUS)[1]


def error(recipe: Recipe, rgb: Tensor = PHOTO) -> float:
    cut = cut_out(rgb, None, recipe, see(rgb, recipe, Network().look))
    return float(np.abs(cut.alpha.numpy() / 255 - ALPHA).mean())


@cache
def refined() -> Matte:
    return cut_out(PHOTO, None, Recipe.REFINED, see(PHOTO, Recipe.REFINED, Network().look))


def test_each_tier_does_what_the_one_below_does_and_more() -> None:
    recipes = [TIERS[tier].recipe for tier in SOLD]
    assert recipes == [Recipe.MASK, Recipe.CLEAN, Recipe.REFINED, Recipe.SECOND_LOOK]
    steps = [(recipe.cleans, recipe.refines, recipe.looks_twice) for recipe in recipes]
    assert steps == [(False, False, False), (True, False, False), (True, True, False), (True, True, True)]


def test_the_mask_alone_leaves_the_photos_colours() -> None:
    assert torch.equal(cut_out(PHOTO, None, Recipe.MASK, see(PHOTO, Recipe.MASK, Network().look)).rgb, PHOTO)


def test_clean_changes_colours_at_the_edge_only_and_no_alpha() -> None:
    plain, clean = (
        cut_out(PHOTO, None, recipe, see(PHOTO, recipe, Network().look))
        for recipe in (Recipe.MASK, Recipe.CLEAN)
    )
    assert torch.equal(plain.alpha, clean.alpha)
    changed = (plain.rgb != clean.rgb).any(2)
    assert changed.any()
    assert not changed[(plain.alpha == 0) | (plain.alpha == 255)].any()


def test_refined_is_nearer_to_the_truth_than_the_mask() -> None:
    assert error(Recipe.REFINED) < 0.2 * error(Recipe.MASK)


def test_the_second_look_sees_what_colours_do_not_tell() -> None:
    camouflaged = disc(BLUE)
    assert error(Recipe.SECOND_LOOK, camouflaged) < 0.6 * error(Recipe.REFINED, camouflaged)


def test_the_second_look_is_at_the_subject_alone() -> None:
    network = Network()
    cut_out(PHOTO, None, Recipe.SECOND_LOOK, see(PHOTO, Recipe.SECOND_LOOK, network.look))
    whole, part = network.shown
    assert whole == (HEIGHT, WIDTH)
    assert max(part) < 4 * RADIUS


@pytest.mark.parametrize(
    "again",
    [lambda mask: None, torch.zeros_like, torch.ones_like, lambda mask: 1 - mask],
    ids=["no subject", "nothing", "everything", "inside out"],
)
def test_a_second_look_that_fails_changes_nothing(again: Callable[[Tensor], Tensor | None]) -> None:
    once = refined()
    twice = cut_out(PHOTO, None, Recipe.SECOND_LOOK, see(PHOTO, Recipe.SECOND_LOOK, Network(again).look))
    assert torch.equal(once.alpha, twice.alpha)
    assert torch.equal(once.rgb, twice.rgb)


@pytest.mark.parametrize("recipe", list(Recipe))
def test_without_a_subject_every_recipe_gives_an_empty_alpha(recipe: Recipe) -> None:
    cut = cut_out(PHOTO, None, recipe, see(PHOTO, recipe, lambda part: None))
    assert cut.no_foreground
    assert cut.alpha.shape == (HEIGHT, WIDTH)
    assert not cut.alpha.any()


@pytest.mark.parametrize("recipe", list(Recipe))
def test_the_photos_own_transparency_is_multiplied_in(recipe: Recipe) -> None:
    own = torch.full((HEIGHT, WIDTH), 128, dtype=torch.uint8)
    own[:, : WIDTH // 2] = 0
    cut = cut_out(PHOTO, own, recipe, see(PHOTO, recipe, Network().look))
    middle = HEIGHT // 2
    assert not cut.alpha[:, : WIDTH // 2].any()
    assert cut.alpha[middle, WIDTH // 2 + 10] == 128
    assert cut.alpha[middle, -1] == 0


def test_every_recipe_runs_on_a_picture_without_a_subject_of_its_own() -> None:
    run_recipes(set(Recipe), torch.device("cpu"))


@pytest.mark.parametrize(("recipe", "looks"), [(Recipe.REFINED, 1), (Recipe.SECOND_LOOK, 2)])
def test_colours_are_cleaned_by_the_coverage_of_each_look(
    recipe: Recipe, looks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    refine, looked, cleaned = refinement.refine, [], []

    def refine_and_mark(rgb: Tensor, mask: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        alpha, coverage = refine(rgb, mask, scale=scale)
        looked.append(coverage.shape)
        return alpha, torch.full_like(coverage, len(looked))

    def remember(rgb: Tensor, coverage: Tensor, _: float) -> Tensor:
        cleaned.append(coverage)
        return rgb

    monkeypatch.setattr(refinement, "refine", refine_and_mark)
    monkeypatch.setattr(refinement, "clean_colours", remember)
    cut_out(PHOTO, None, recipe, see(PHOTO, recipe, Network().look))
    assert len(looked) == looks
    assert cleaned[0][0, 0] == 1
    assert int((cleaned[0] == looks).sum()) == looked[-1].numel()


def test_a_neighbour_that_is_dropped_lends_its_colour_to_no_edge() -> None:
    """The colours beside it are estimated as if it were background, which it is now."""
    red, green = torch.tensor([210.0, 40, 40]), torch.tensor([40.0, 200, 40])
    row, column = torch.meshgrid(torch.arange(200) + 0.5, torch.arange(280) + 0.5, indexing="ij")

    def soft_disc(middle: float) -> Tensor:
        return ((40 - torch.hypot(row - 100, column - middle)) / 12 + 0.5).clamp(0, 1)

    kept, dropped = soft_disc(90), soft_disc(188)
    colours = kept[..., None] * red + dropped[..., None] * green
    photo = colours + (1 - kept - dropped)[..., None] * torch.tensor(BLUE)
    mask = torch.nn.functional.interpolate((kept + dropped)[None, None], size=(200, 200), mode="bilinear")
    aim = Aim(drop=((188 / 280, 0.5),))
    rgb = photo.round().to(torch.uint8)
    cut = cut_out(rgb, None, Recipe.REFINED, see(rgb, Recipe.REFINED, lambda _: mask), aim=aim)
    edge = (cut.alpha > 20) & (cut.alpha < 235) & (column > 110)
    assert edge.sum() > 400
    off = (cut.rgb[edge].float() - red).abs().mean(0)
    assert off[0] < 8
    assert off[1] < 5
