"""The subject's own shadow in drawn photos of which it is known: ground × (1 − shadow), the subject over it, and noise."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F

from cutout.inference.imaging.resize import resize_planes
from cutout.inference.matting import cast_shadow

Floats = npt.NDArray[np.floating]
HEIGHT, WIDTH = 300, 400
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH].astype(np.float64)
LEFT, RIGHT, TOP, BASE = 150, 230, 60, 220  # of the subject
WHITE, GREY, ROSE = (244.0, 244, 244), (128.0, 130, 133), (200.0, 120, 140)


@dataclass
class Drawn:
    """A photo and the alpha of the subject in it, and the shadow that was drawn, [H,W] of 0…1."""

    photo: torch.Tensor
    alpha: torch.Tensor
    shadow: Floats

    def error(self, found: torch.Tensor | None) -> float:
        """Return the mean error of the shadow where it was drawn, beside the subject."""
        where = (self.alpha.numpy() == 0) & (self.shadow > 0.02)
        return float(np.abs(enlarged(found) - self.shadow)[where].mean())


def enlarged(found: torch.Tensor | None) -> Floats:
    assert found is not None
    return F.interpolate(found, size=(HEIGHT, WIDTH), mode="bilinear")[0, 0].double().numpy()


def soft_spot(row: float, column: float, tall: float, wide: float, depth: float) -> Floats:
    spot: Floats = depth * np.exp(-(((ROWS - row) / tall) ** 2) - ((COLUMNS - column) / wide) ** 2)
    return spot


# Where the subject stands on the ground, and what falls to its right.
CONTACT = soft_spot(BASE + 2, 190, 6, 45, 0.45)
CAST = soft_spot(BASE - 15, 270, 25, 45, 0.3)
SHADOW = np.maximum(CONTACT, CAST)
NONE = np.zeros_like(SHADOW)


def drawn(ground: Floats | tuple[float, ...], shadow: Floats = SHADOW, *, noise: float = 2.0) -> Drawn:
    """Draw a red box, with an edge that is a pixel soft, on a ground, [H,W,3] or one colour of 0…255."""
    inside = np.minimum.reduce([COLUMNS + 1 - LEFT, RIGHT - COLUMNS, ROWS + 1 - TOP, BASE - ROWS])
    alpha = np.rint(np.clip(inside, 0, 1) * 255).astype(np.uint8)
    alpha[(inside > 0) & (inside < 2)] = 128
    share = (alpha / 255)[..., None]
    light = share * (190, 40, 30) + (1 - share) * np.asarray(ground) * (1 - shadow)[..., None]
    light = light + np.random.default_rng(5).normal(0, noise, light.shape)
    photo = torch.from_numpy(np.clip(np.rint(light), 0, 255).astype(np.uint8))
    return Drawn(photo, torch.from_numpy(alpha), shadow)


def found_in(scene: Drawn) -> torch.Tensor | None:
    return cast_shadow.find(scene.photo, scene.alpha)


def lit(colour: tuple[float, ...]) -> Floats:
    """Return a ground that is a quarter darker to the left and towards the top."""
    share = 1 - 0.25 * (1 - COLUMNS / WIDTH) ** 2 - 0.05 * (1 - ROWS / HEIGHT)
    ground: Floats = np.asarray(colour) * share[..., None]
    return ground


def table(line: int, wall: float, top: float) -> Floats:
    """Return a table before a wall, which ends at a row."""
    share = np.clip((ROWS - line) / 3, 0, 1)[..., None]
    ground: Floats = wall + (top - wall) * share + np.zeros(3)
    return ground


@pytest.mark.parametrize(
    "ground",
    [WHITE, GREY, lit(WHITE), lit(ROSE), table(130, 235, 140), table(130, 110, 230)],
    ids=["white", "grey", "lit white", "lit rose", "dark table", "light table"],
)
def test_a_shadow_on_a_plain_ground_is_found_as_it_was_drawn(ground: Floats | tuple[float, ...]) -> None:
    scene = drawn(ground)
    found = found_in(scene)
    assert scene.error(found) < 0.02
    beside = (scene.alpha.numpy() == 0) & (scene.shadow <= 0.02)
    # What is noise and what is hardly a shadow differ by 0.02.
    assert np.abs(enlarged(found) - scene.shadow)[beside].max() < 0.035
    assert enlarged(found)[beside].mean() < 0.002


@pytest.mark.parametrize("ground", [lit(ROSE), table(130, 235, 140)])
def test_without_a_shadow_nothing_is_found(ground: Floats | tuple[float, ...]) -> None:
    assert found_in(drawn(ground, NONE, noise=4)) is None


def textured(cell: int, amount: float) -> Floats:
    """Return a grey ground with a texture of this size, in pixels, whose standard deviation is `amount`."""
    noise = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (1, 1, HEIGHT // cell, WIDTH // cell)))
    large = F.interpolate(noise, size=(HEIGHT, WIDTH), mode="bilinear")[0, 0].numpy()
    ground: Floats = np.asarray(GREY) + (amount / large.std() * large)[..., None]
    return ground


@pytest.mark.parametrize(("cell", "shadow"), [(4, SHADOW), (10, NONE), (25, SHADOW)])
def test_on_a_textured_ground_nothing_is_kept(cell: int, shadow: Floats) -> None:
    assert found_in(drawn(textured(cell, 12), shadow)) is None


def test_on_planks_nothing_is_kept() -> None:
    planks = np.asarray((190.0, 150, 110)) * (1 + 0.12 * np.sign(np.sin(ROWS / 12)))[..., None]
    assert found_in(drawn(planks)) is None


def test_a_fine_weave_is_plain() -> None:
    weave = np.asarray(WHITE) * (1 - 0.1 * ((ROWS + COLUMNS) % 2))[..., None]
    scene = drawn(weave)
    assert scene.error(found_in(scene)) < 0.02


@pytest.mark.parametrize("colour", [(210.0, 120, 110)])
def test_a_coloured_stain_is_no_shadow(colour: tuple[float, ...]) -> None:
    share = np.clip(3 * CAST, 0, 1)[..., None]
    stained = (1 - share) * np.asarray(WHITE) + share * np.asarray(colour)
    found = found_in(drawn(stained, NONE))
    assert found is None or float(found.max()) < 0.1


def test_a_dark_strip_across_the_photo_is_no_shadow() -> None:
    across = np.where(((ROWS > 180) & (ROWS < 290))[..., None], 150.0, 240.0) + np.zeros(3)
    assert found_in(drawn(across, NONE)) is None


@pytest.mark.parametrize("line", [180, 215])
def test_a_second_ground_below_is_no_shadow(line: int) -> None:
    assert found_in(drawn(table(line, 235, 170), NONE)) is None


def test_a_second_ground_in_a_corner_is_no_shadow() -> None:
    corner = (ROWS > 200) & (COLUMNS > 190)
    assert found_in(drawn(np.where(corner[..., None], 175.0, 235.0) + np.zeros(3), NONE)) is None


def test_a_shadow_that_climbs_a_wall_is_not_cut_off() -> None:
    assert found_in(drawn(table(130, 235, 140), soft_spot(140, 265, 40, 40, 0.3))) is None


def test_a_black_thing_beside_the_subject_is_no_shadow() -> None:
    black = soft_spot(150, 260, 30, 30, 1.0) > 0.4
    assert found_in(drawn(np.where(black[..., None], 12.0, 240.0) + np.zeros(3), NONE)) is None


def test_a_dark_ground_has_no_shadow_to_see() -> None:
    assert found_in(drawn((33.0, 33, 33), noise=0.5)) is None
    assert found_in(drawn((50.0, 50, 50), noise=0.5)) is not None


def test_the_shadow_of_something_else_stays_away() -> None:
    other = soft_spot(60, 350, 15, 15, 0.4)
    scene = drawn(WHITE, np.maximum(SHADOW, other))
    shown = enlarged(found_in(scene))
    assert shown[other > 0.05].max() == 0
    assert shown[BASE + 2, 190] > 0.3


def test_things_beyond_the_subjects_surroundings_do_not_matter() -> None:
    crowded = np.asarray(WHITE) + np.zeros((HEIGHT, WIDTH, 1))
    crowded[:, :67] = (90, 120, 160)
    crowded[:83, 300:] = 60
    scene = drawn(crowded)
    assert scene.error(found_in(scene)) < 0.02


def test_the_shadow_goes_on_beneath_the_edge() -> None:
    """Else there would be a light line between the two."""
    scene = drawn(WHITE, CONTACT)
    shown = enlarged(found_in(scene))
    edge = shown[BASE - 1, 170:210]
    assert np.abs(edge - CONTACT[BASE + 2, 170:210]).mean() < 0.08
    assert shown[TOP + 40, 180] == 0, "not where the subject is opaque all around"


def test_what_is_transparent_in_the_photo_is_no_ground() -> None:
    scene = drawn(WHITE)
    own = torch.full_like(scene.alpha, 255)
    own[:, 300:] = 0
    scene.photo[:, 300:] = 0
    found = cast_shadow.find(scene.photo, scene.alpha, own)
    assert scene.error(found) < 0.1
    shown = enlarged(found)[:, :290]
    near = (scene.alpha.numpy() == 0)[:, :290] & (scene.shadow > 0.02)[:, :290]
    assert np.abs(shown - scene.shadow[:, :290])[near].mean() < 0.02
    assert found_in(scene) is None, "black, it would be a thing"


def test_a_large_photo_has_the_same_shadow() -> None:
    scene = drawn(WHITE)
    planes = resize_planes(scene.photo.permute(2, 0, 1)[None].float(), 4 * HEIGHT, 4 * WIDTH)
    alpha = resize_planes(scene.alpha[None, None].float(), 4 * HEIGHT, 4 * WIDTH)
    found = cast_shadow.find(planes[0].permute(1, 2, 0).to(torch.uint8), alpha[0, 0].to(torch.uint8))
    assert found is not None
    assert max(found.shape) == cast_shadow.SIDE
    assert scene.error(found) < 0.02


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (40, 3), (1, 5000)])
@pytest.mark.parametrize("level", [0, 255])
def test_any_size_works(size: tuple[int, int], level: int) -> None:
    photo = torch.randint(256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    alpha = torch.full(size, level, dtype=torch.uint8)
    alpha[0, 0] = 255
    assert cast_shadow.find(photo, alpha) is None


def test_a_shadow_that_winds_all_over_the_photo_is_followed_at_once() -> None:
    level = np.full((512, 512), 230, np.uint8)
    for number, row in enumerate(range(4, 490, 10)):
        level[row : row + 5, 6:500] = 150
        level[row : row + 10, slice(495, 500) if number % 2 == 0 else slice(6, 11)] = 150
    alpha = np.zeros_like(level)
    alpha[:6, :12] = 255
    photo = torch.from_numpy(level)[..., None].expand(-1, -1, 3).contiguous()

    def seconds(photo: torch.Tensor) -> float:
        begin = time.process_time()
        cast_shadow.find(photo, torch.from_numpy(alpha))
        return time.process_time() - begin

    plain = min(seconds(torch.full_like(photo, 230)) for _ in range(3))
    assert seconds(photo) < 12 * plain
