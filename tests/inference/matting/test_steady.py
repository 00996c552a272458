"""Steadying of alpha: no flicker where nothing moves, and each frame's own alpha where something does."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from cutout.inference.matting.steady import Steadier, likeness
from tests.animations import disc, drawn

CPU = torch.device("cpu")
HEIGHT, WIDTH = 48, 64
Alpha = npt.NDArray[np.float64]


def steadied(photos: list[npt.NDArray[np.uint8]], alphas: list[Alpha]) -> list[Alpha]:
    steadier = Steadier(CPU)
    for photo, alpha in zip(photos, alphas, strict=True):
        steadier.add(torch.from_numpy(photo), torch.from_numpy(np.rint(255 * alpha).astype(np.uint8))[None])
    steadier.finish()
    return [steadier.steadied(index)[0].numpy() / 255 for index in range(len(photos))]


def with_noise(photo: npt.NDArray[np.uint8], level: float, seed: int) -> npt.NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(0, level, photo.shape)
    return np.clip(photo + noise, 0, 255).round().astype(np.uint8)


def undecided(truth: Alpha, seed: int) -> Alpha:
    """Return what a network might find: the truth, with an edge and patches that differ each time."""
    rng = np.random.default_rng(seed)
    patches = np.kron(rng.uniform(-0.3, 0.3, (6, 8)), np.ones((8, 8)))
    return np.clip(truth + patches, 0, 1)


def flicker(alphas: list[Alpha]) -> float:
    return float(np.mean([np.abs(one - other).mean() for one, other in pairwise(alphas)]))


def error(alphas: list[Alpha], truths: list[Alpha]) -> float:
    return float(np.mean([np.abs(one - truth).mean() for one, truth in zip(alphas, truths, strict=True)]))


def test_a_still_photo_has_the_same_alpha_in_all_frames() -> None:
    truth = disc(WIDTH, HEIGHT, 30, 12)
    found = [undecided(truth, seed) for seed in range(8)]
    alphas = steadied([drawn(truth)] * 8, found)
    assert flicker(alphas) == 0
    assert np.abs(alphas[0] - np.mean(found, 0)).max() < 1 / 255


def test_noise_is_no_motion() -> None:
    truth = disc(WIDTH, HEIGHT, 30, 12)
    found = [undecided(truth, seed) for seed in range(8)]
    alphas = steadied([with_noise(drawn(truth), 6, seed) for seed in range(8)], found)
    assert flicker(alphas) < 0.03 * flicker(found)


def test_what_moves_leaves_no_ghost() -> None:
    truths = [disc(WIDTH, HEIGHT, 14 + 5 * index, 9) for index in range(8)]
    alphas = steadied([with_noise(drawn(truth), 3, index) for index, truth in enumerate(truths)], truths)
    # With the truth as what was found, any change is an error.
    assert error(alphas, truths) < 0.002
    assert max(np.abs(one - truth).max() for one, truth in zip(alphas, truths, strict=True)) < 0.35


def test_where_some_moves_and_the_rest_stands_only_the_rest_is_steadied() -> None:
    truths = [disc(WIDTH, HEIGHT, 14 + 5 * index, 9) for index in range(8)]
    found = [undecided(truth, index) for index, truth in enumerate(truths)]
    alphas = steadied([with_noise(drawn(truth), 3, index) for index, truth in enumerate(truths)], found)
    assert error(alphas, truths) < error(found, truths)
    far = np.s_[:8, :]  # nothing ever moves there
    assert flicker([one[far] for one in alphas]) < 0.03 * flicker([one[far] for one in found])


def test_a_slow_change_adds_up() -> None:
    """From frame to frame the colours differ by less than noise would; from the first to the last they are others."""
    photos = [np.full((HEIGHT, WIDTH, 3), 40 + 2 * index, np.uint8) for index in range(40)]
    alphas = steadied(photos, [np.full((HEIGHT, WIDTH), index / 39) for index in range(40)])
    assert alphas[0].max() < 0.35
    assert alphas[-1].min() > 0.65


def test_a_hair_that_moves_by_its_own_width_is_no_noise() -> None:
    def hair(column: int) -> Tensor:
        photo = np.full((HEIGHT, WIDTH, 3), 200.0, np.float32)
        photo[:, column] = 60
        return torch.from_numpy(photo).permute(2, 0, 1)[None]

    same = likeness(hair(30), hair(31))[0]
    assert float(same[10:-10, 30:32].max()) == 0
    assert float(same[:, :20].min()) == 1
