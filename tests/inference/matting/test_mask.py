"""Photo to network input, and mask to alpha."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from cutout.inference.errors import NetworkFailed
from cutout.inference.imaging import compositing
from cutout.inference.imaging.resize import resize_antialiased, resize_bilinear
from cutout.inference.matting.mask import enlarge, find_subject, to_levels, to_pixels
from cutout.models.catalog import find
from tests.conftest import DATA

pytestmark = pytest.mark.slow

CHECKPOINT = find("isnet-general")


def subject(mask: torch.Tensor, name: str = "isnet-general") -> torch.Tensor:
    found = find_subject(mask, find(name))
    assert found is not None
    return found


def test_pixels_are_normalised_as_the_checkpoint_says() -> None:
    white = torch.full((5, 9, 3), 255, dtype=torch.uint8)
    pixels = to_pixels(white, CHECKPOINT)
    assert pixels.shape == (1, 3, 1024, 1024)
    assert pixels.dtype == torch.float32
    torch.testing.assert_close(pixels, torch.full_like(pixels, 0.5))


def test_birefnets_pixels_are_pillows_with_the_mean_and_deviation_of_imagenet() -> None:
    checkpoint = find("rmbg-2.0")
    source = Image.open(DATA / "coffee.jpg")
    for size in (source.size, (2400, 1601), (700, 1100)):
        rgb = np.array(source.resize(size))
        pixels = to_pixels(torch.from_numpy(rgb), checkpoint)[0].permute(1, 2, 0).numpy()
        resized = np.asarray(Image.fromarray(rgb).resize((1024, 1024), Image.Resampling.BILINEAR))
        expected = (resized / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        assert np.abs(pixels - expected).max() <= 1.01 / 255 / 0.224


def test_resizing_in_floats_as_on_a_gpu_is_within_a_level_of_bytes() -> None:
    rgb = torch.from_numpy(np.array(Image.open(DATA / "coffee.jpg")))
    in_bytes = resize_antialiased(rgb, 256, 300)
    in_floats = resize_antialiased(rgb.float(), 256, 300)
    assert (in_bytes - in_floats).abs().max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["isnet-general", "rmbg-2.0"])
def test_a_gpu_gives_the_pixels_of_a_cpu(name: str) -> None:
    coffee = torch.from_numpy(np.array(Image.open(DATA / "coffee.jpg")))
    on_cpu = to_pixels(coffee, find(name))
    on_gpu = to_pixels(coffee.to("cuda"), find(name)).cpu()
    assert (on_gpu - on_cpu).abs().max() <= 1.01 / 255 / min(find(name).std)


@pytest.mark.parametrize(
    ("height", "width"), [(2, 40_000), (40_000, 2), (7, 30_000), (30_000, 7), (1, 50_000)]
)
def test_a_thin_picture_is_resized_like_any_other(height: int, width: int) -> None:
    rows, columns = torch.linspace(0, 9, height)[:, None], torch.linspace(0, 60, width)
    thin = (127 + 60 * torch.sin(columns) + 60 * torch.cos(rows)).to(torch.uint8)[..., None].expand(-1, -1, 3)
    planes = thin.permute(2, 0, 1)[None].double()
    for resize, antialias in ((resize_bilinear, False), (resize_antialiased, True)):
        # Two sizes, to test both methods: for images with few pixels and with many.
        for size in (1024, 96):
            expected = F.interpolate(planes, size=(size, size), mode="bilinear", antialias=antialias)[0]
            found = resize(thin.contiguous(), size, size).permute(2, 0, 1)
            assert (found - expected).abs().max() <= 1.01


def test_faint_specks_far_from_the_subject_become_nothing() -> None:
    axis = torch.linspace(-1, 1, 1024)
    disc = torch.sigmoid((0.3 - (axis[:, None] ** 2 + axis**2).sqrt()) * 110)[None, None]
    specks = torch.zeros_like(disc)
    specks[..., 40, 40] = 0.2  # a single pixel
    specks[..., 900:, :100] = 3 / 255  # a haze
    found = subject(disc + specks, "rmbg-2.0")
    assert not found[..., :100, :].any()
    assert not found[..., 850:, :150].any()
    shown = disc * 255 >= 0.5
    assert torch.equal(found[shown], (disc + specks)[shown])


def test_faint_parts_of_a_subject_stay() -> None:
    mask = torch.zeros(1, 1, 1024, 1024)
    mask[..., 500:, 400:600] = 1
    mask[..., 100:500, 480] = 0.34  # a hair, one pixel wide
    mask[..., 700:900, 600:900] = 0.1  # a glass
    mask[..., 650:690, 600:630] = torch.linspace(0.3, 0.002, 30)  # an out-of-focus edge
    assert torch.equal(subject(mask, "rmbg-2.0"), mask)


def test_a_mask_is_stretched_to_its_own_range() -> None:
    mask = torch.tensor([[0.1, 0.9], [0.1, 0.9]])[None, None]
    torch.testing.assert_close(subject(mask)[0, 0], torch.tensor([[0.0, 1.0], [0.0, 1.0]]))


def test_a_mask_of_birefnet_is_taken_as_it_is() -> None:
    mask = torch.tensor([[0.1, 0.9], [0.1, 0.9]])[None, None]
    torch.testing.assert_close(subject(mask, "rmbg-2.0"), mask)


def test_a_mask_without_a_subject_is_none_not_noise() -> None:
    assert find_subject(torch.rand(1, 1, 32, 32) * 0.4, CHECKPOINT) is None


def test_a_mask_without_a_background_is_not_stretched_to_noise() -> None:
    assert subject(0.99 + torch.rand(1, 1, 32, 32) * 0.01).min() >= 0.99


def test_a_mask_is_enlarged_as_published_bilinearly() -> None:
    mask = torch.rand(1, 1, 8, 8)
    expected = F.interpolate(mask, size=(21, 30), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(enlarge(mask, 21, 30), expected)
    np.testing.assert_array_equal(to_levels(torch.tensor([[-0.1, 0.0, 0.5, 1.2]])), [[0, 0, 128, 255]])


def test_strips_of_a_cutout_are_all_composed(monkeypatch: pytest.MonkeyPatch) -> None:
    rgb = torch.randint(0, 256, (9, 14, 3), dtype=torch.uint8)
    alpha = torch.randint(0, 256, (9, 14), dtype=torch.uint8)
    whole = compositing.transparent(rgb, alpha), compositing.on_background(rgb, alpha, (1, 2, 3))
    monkeypatch.setitem(compositing.STRIP_PIXELS, "cpu", 50)
    assert torch.equal(compositing.transparent(rgb, alpha), whole[0])
    assert torch.equal(compositing.on_background(rgb, alpha, (1, 2, 3)), whole[1])


def test_the_cutout_is_laid_on_a_background() -> None:
    rgb = torch.tensor([200, 100, 0], dtype=torch.uint8).expand(1, 3, 3)
    alpha = torch.tensor([[0, 51, 255]], dtype=torch.uint8)
    laid = compositing.on_background(rgb, alpha, (0, 0, 255))
    np.testing.assert_array_equal(laid, [[(0, 0, 255), (40, 20, 204), (200, 100, 0)]])


@pytest.mark.parametrize("size", [(40, 50), (300, 200)], ids=["small", "large"])
def test_a_photo_of_any_size_is_resized_as_published(size: tuple[int, int]) -> None:
    rgb = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    planes = rgb.permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, size=(64, 48), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(resize_bilinear(rgb, 64, 48), expected)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_mask_with_a_value_that_is_no_number_is_an_error(value: float) -> None:
    mask = torch.rand(1, 1, 64, 64)
    mask[0, 0, 20, 30] = value
    with pytest.raises(NetworkFailed, match="invalid numbers"):
        find_subject(mask, CHECKPOINT)
