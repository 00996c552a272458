"""Foreground colours and alpha refinement, on composites with known ground truth."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cutout.inference.matting import unknown_region
from cutout.inference.matting.mask import enlarge, to_levels
from cutout.inference.matting.refinement import clean_colours, refine

RED, GREEN, BLUE = (200.0, 60.0, 50.0), (60.0, 170.0, 70.0), (50.0, 70.0, 180.0)
SIDE = 1024


def mixture(alpha: Tensor, foreground: Tensor, background: Tensor, noise: float = 2.0) -> Tensor:
    """Composite colours, float [3] or [H,W,3] in 0…255, with grain as from a camera; return uint8 [H,W,3]."""
    grain = torch.randn(*alpha.shape, 3, generator=torch.Generator().manual_seed(0)) * noise
    mixed = alpha[..., None] * foreground + (1 - alpha[..., None]) * background
    return (mixed + grain).round().clamp(0, 255).to(torch.uint8)


def soft_mask(alpha: Tensor, size: int = 256) -> Tensor:
    """Return the mask of a good network: the alpha resized to `size`, blurred by about a pixel."""
    small = F.interpolate(alpha[None, None], size=(size, size), mode="area")
    return F.avg_pool2d(F.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)


def strands(height: int = 192, width: int = SIDE, thick: int = 3, apart: int = 13) -> Tensor:
    """Return an alpha that is solid at the top, with strands hanging down; `apart` is their distance in pixels."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    sway = columns + 6 * torch.sin(rows / 20)
    hair = ((sway % apart) < thick).float() * (rows < height * 0.8)
    alpha = torch.maximum(hair, (rows < height * 0.3).float())
    return F.avg_pool2d(F.pad(alpha[None, None], (1, 1, 1, 1), mode="replicate"), 3, 1)[0, 0]


def ramp(width: float, height: int = 96, side: int = SIDE) -> Tensor:
    """Return an alpha with a vertical out-of-focus edge, `width` pixels wide."""
    columns = torch.arange(side, dtype=torch.float32)
    return ((columns - side / 2) / width + 0.5).clamp(0, 1).expand(height, side).contiguous()


def test_alpha_follows_strands_that_the_mask_has_lost() -> None:
    alpha = strands()
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mask = soft_mask(alpha)
    before = (enlarge(mask, *alpha.shape) - alpha).abs().mean()
    after = (refine(photo, mask)[0] - alpha).abs().mean()
    assert after < 0.25 * before


def test_where_the_mask_is_certain_nothing_changes() -> None:
    alpha = ramp(8)
    texture = torch.rand(*alpha.shape, 3, generator=torch.Generator().manual_seed(1)) * 255
    mask = soft_mask(alpha)
    difference = (
        refine(mixture(alpha, texture, texture.flip(0)), mask)[0] - enlarge(mask, *alpha.shape)
    ).abs()
    assert difference[:, : SIDE // 2 - 40].max() == 0
    assert difference[:, SIDE // 2 + 40 :].max() == 0


@pytest.mark.parametrize("width", [60, 120])
def test_an_edge_out_of_focus_does_not_take_on_texture_and_noise(width: float) -> None:
    alpha = ramp(width)
    texture = torch.rand(*alpha.shape, 1, generator=torch.Generator().manual_seed(1)) * 120
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE) - 60 + texture, noise=4)
    error = (refine(photo, soft_mask(alpha))[0] - alpha).abs()
    assert error.mean() < 1e-3
    assert error.max() < 0.1


def test_a_mask_too_sure_of_a_soft_edge_is_softened() -> None:
    alpha = ramp(40)
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mask = soft_mask(ramp(12))
    before = (enlarge(mask, *alpha.shape) - alpha).abs().mean()
    assert (refine(photo, mask)[0] - alpha).abs().mean() < 0.8 * before


def test_a_subject_of_its_backgrounds_colour_keeps_the_masks_edge() -> None:
    alpha = ramp(8)
    photo = mixture(alpha, torch.tensor(GREEN), torch.tensor(GREEN), noise=3)
    mask = soft_mask(alpha)
    error = (refine(photo, mask)[0] - alpha).abs()
    assert error.mean() <= (enlarge(mask, *alpha.shape) - alpha).abs().mean()


def test_the_old_background_leaves_the_edge() -> None:
    alpha = ramp(24)
    levels = to_levels(alpha)
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mixed = (levels > 25) & (levels < 230)
    cleaned = clean_colours(photo, levels)
    before, after = ((rgb[mixed].float() - torch.tensor(RED)).abs().mean() for rgb in (photo, cleaned))
    assert after < 0.2 * before


def test_hair_keeps_a_colour_of_its_own() -> None:
    alpha = strands(thick=10, apart=40)
    solid = torch.arange(alpha.shape[0])[:, None, None] < alpha.shape[0] * 0.3
    foreground = torch.where(solid, torch.tensor(RED), torch.tensor(GREEN)).expand(*alpha.shape, 3)
    photo = mixture(alpha, foreground, torch.tensor(BLUE))
    levels = to_levels(alpha)
    below = slice(int(alpha.shape[0] * 0.45), int(alpha.shape[0] * 0.75))
    hair = ((levels > 60) & (levels < 230))[below]
    cleaned = clean_colours(photo, levels)[below][hair].float()
    assert (cleaned - torch.tensor(GREEN)).abs().mean() < 15
    assert (cleaned - torch.tensor(RED)).abs().mean() > 60


def test_the_subjects_own_texture_is_kept_in_what_shows_through() -> None:
    alpha = ramp(300)
    texture = torch.rand(*alpha.shape, 1, generator=torch.Generator().manual_seed(3)) * 100 - 50
    foreground = torch.tensor(RED) + texture
    levels = to_levels(alpha)
    cleaned = clean_colours(mixture(alpha, foreground, torch.tensor(BLUE)), levels)
    nearly_opaque = (levels > 180) & (levels < 250)
    assert (cleaned[nearly_opaque].float() - foreground.clamp(0, 255)[nearly_opaque]).abs().mean() < 8


def test_opaque_pixels_keep_their_colours_bit_for_bit() -> None:
    rng = np.random.default_rng(2)
    photo = torch.from_numpy(rng.integers(0, 256, (90, 70, 3), dtype=np.uint8))
    levels = torch.from_numpy(rng.choice(np.array([0, 100, 255], np.uint8), (90, 70)))
    cleaned = clean_colours(photo, levels)
    assert torch.equal(cleaned[levels == 255], photo[levels == 255])
    assert not torch.equal(cleaned[levels == 100], photo[levels == 100])


def test_the_photo_itself_is_left_alone() -> None:
    photo = mixture(ramp(24), torch.tensor(RED), torch.tensor(BLUE))
    before = photo.clone()
    refine(photo, soft_mask(ramp(24)))
    clean_colours(photo, to_levels(ramp(24)))
    assert torch.equal(photo, before)


@pytest.mark.parametrize("threads", ["1", "3"])
@pytest.mark.parametrize("pixels", [900, 200], ids=["of several rows", "of a part of one row"])
def test_strips_leave_no_trace(pixels: int, threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the threads that share them."""
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    alpha = strands(100, 300)
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mask = soft_mask(alpha, 75)
    whole = refine(photo, mask)[0], clean_colours(photo, to_levels(alpha))
    monkeypatch.setitem(unknown_region.STRIP_PIXELS, "cpu", pixels)
    torch.testing.assert_close(refine(photo, mask)[0], whole[0], atol=1e-5, rtol=0)
    assert torch.equal(clean_colours(photo, to_levels(alpha)), whole[1])


@settings(max_examples=20, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.sampled_from([1, 2, 16, 64]),
    seed=st.integers(0, 100),
    kind=st.sampled_from(["noise", "clear", "opaque"]),
)
def test_every_size_gives_an_alpha_and_colours(
    height: int, width: int, size: int, seed: int, kind: str
) -> None:
    rng = np.random.default_rng(seed)
    photo = torch.from_numpy(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    values: dict[str, npt.NDArray[np.float64]] = {
        "noise": rng.random((size, size)),
        "clear": np.zeros((size, size)),
        "opaque": np.ones((size, size)),
    }
    alpha = refine(photo, torch.from_numpy(values[kind]).float()[None, None])[0]
    assert alpha.shape == (height, width)
    assert bool(((alpha >= 0) & (alpha <= 1 + 1e-6)).all())
    if kind != "noise":
        torch.testing.assert_close(alpha, torch.full_like(alpha, float(kind == "opaque")))
    cleaned = clean_colours(photo, to_levels(alpha))
    assert (cleaned.shape, cleaned.dtype) == (photo.shape, torch.uint8)


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives() -> None:
    alpha = strands()
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mask = soft_mask(alpha)
    on_cpu, on_gpu = refine(photo, mask)[0], refine(photo.cuda(), mask.cuda())[0].cpu()
    # Resizing in floats and in bytes differs by at most one level.
    assert (on_gpu - on_cpu).abs().mean() < 2e-3
    levels = to_levels(alpha)
    cleaned = clean_colours(photo.cuda(), levels.cuda()).cpu().float()
    assert (cleaned - clean_colours(photo, levels).float()).abs().mean() < 0.5


def test_only_the_edges_that_are_asked_for_are_refined(monkeypatch: pytest.MonkeyPatch) -> None:
    strand = strands()
    alpha = torch.cat([strand, torch.zeros(64, SIDE), strand.flip(0)])
    photo, mask = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE)), soft_mask(alpha)
    near = torch.zeros_like(mask)
    near[..., : mask.shape[2] // 5, : mask.shape[3] // 2] = 1
    counted: list[int] = []
    pixels = unknown_region.UnknownRegion.pixels

    def counting(*given: Any) -> Tensor:
        found = pixels(*given)
        counted.append(len(found))
        return found

    monkeypatch.setattr(unknown_region.UnknownRegion, "pixels", counting)
    whole, part = refine(photo, mask), refine(photo, mask, near)
    assert counted[1] < 0.4 * counted[0]
    here = enlarge(near, *alpha.shape) > 0
    assert (whole[0] - alpha).abs()[here].mean() < 0.5 * (enlarge(mask, *alpha.shape) - alpha).abs()[
        here
    ].mean()
    for one, other in zip(whole, part, strict=True):
        assert (one.float() - other)[here].abs().max() < 1e-5
    # Far from them is the mask.
    assert torch.equal(part[0][300:], enlarge(mask, *alpha.shape)[300:])
    assert torch.equal(refine(photo, mask, torch.zeros_like(near))[0], enlarge(mask, *alpha.shape))


def test_a_small_copy_is_refined_as_far_as_its_photo() -> None:
    """Else it would look as soft as the mask does, and sharpen as soon as the photo itself takes its place."""
    alpha = strands(thick=6, apart=26)
    photo = mixture(alpha, torch.tensor(RED), torch.tensor(BLUE))
    mask = soft_mask(alpha, 512)
    small = F.interpolate(photo.permute(2, 0, 1)[None].float(), scale_factor=0.3, mode="area")
    copy = small[0].permute(1, 2, 0).round().to(torch.uint8).contiguous()
    true = F.interpolate(alpha[None, None], size=copy.shape[:2], mode="area")[0, 0]
    as_mask, as_photo = (refine(copy, mask, scale=scale)[0] for scale in (1.0, 1 / 0.3))
    assert (as_photo - true).abs().mean() < 0.9 * (as_mask - true).abs().mean()
