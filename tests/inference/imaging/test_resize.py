"""Resizing: the same values by every method, and no intermediate tensor much larger than input and output."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from cutout.inference.imaging import compositing
from cutout.inference.imaging.resize import resize_antialiased, resize_bilinear, resize_planes
from cutout.inference.matting.mask import to_pixels
from cutout.inference.matting.refinement import clean_colours, refine
from cutout.models.catalog import find

pytestmark = pytest.mark.slow

THIN = [(2, 60_000), (60_000, 2), (1, 60_000), (60_000, 1), (120, 8000), (8000, 120)]


class Largest(TorchDispatchMode):
    """Records the size in bytes of the largest tensor that an operation creates."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            if isinstance(one, Tensor):
                self.bytes = max(self.bytes, one.untyped_storage().nbytes())
        # This operation resizes the width first, into a temporary tensor.
        if "_upsample_bilinear2d_aa" in func.__name__:
            image, (_, width) = args[0], args[1]
            self.bytes = max(self.bytes, image[..., 0].numel() * width * image.element_size())
        return result


def picture(height: int, width: int) -> Tensor:
    return torch.randint(
        0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("size", THIN)
def test_a_thin_photo_is_resized_as_published(size: tuple[int, int]) -> None:
    rgb = picture(*size)
    planes = rgb.permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, size=(64, 48), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(resize_bilinear(rgb, 64, 48), expected)


@pytest.mark.parametrize("size", THIN)
def test_a_thin_photo_is_antialiased_as_any(size: tuple[int, int]) -> None:
    """Within two levels for a photo with much detail, in bytes as on a CPU and in floats as on a GPU."""
    rgb = picture(*size)
    planes = rgb.permute(2, 0, 1)[None].float()
    expected = F.interpolate(planes, size=(64, 48), mode="bilinear", antialias=True)
    assert (resize_antialiased(rgb, 64, 48).permute(2, 0, 1) - expected[0]).abs().max() <= 2
    assert (resize_planes(planes, 64, 48) - expected).abs().max() <= 2


def test_a_column_that_stays_one_is_resized() -> None:
    column = picture(300, 1).permute(2, 0, 1)[None].float()
    expected = F.interpolate(column.expand(1, 3, 300, 2), size=(64, 2), mode="bilinear", antialias=True)
    torch.testing.assert_close(resize_planes(column, 64, 1), expected[..., :1], atol=0.01, rtol=0)


@pytest.mark.parametrize("size", [(33_000, 1), (1, 65_500), (48_640, 1000), (97_280, 1)])
@pytest.mark.parametrize("target", [512, 1024])
def test_no_scale_is_more_than_a_gpus_kernel_takes(
    size: tuple[int, int], target: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's 48 KiB of shared memory hold the weights up to a scale of 95 on both axes."""
    asked: list[tuple[int, ...]] = []

    def interpolate(planes: Tensor, size: tuple[int, int], **_: object) -> Tensor:
        asked.append((*planes.shape[2:], *size))
        return planes.new_empty(*planes.shape[:2], *size)

    monkeypatch.setattr(F, "interpolate", interpolate)
    resize_planes(torch.empty(1, 1, *size), target, target)
    assert asked
    for rows, columns, height, width in asked:
        down, across = (1 + 2 * max(1, -(-a // b)) for a, b in ((rows, height), (columns, width)))
        assert across * 32 + down * 4 * 33 <= 12_288


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("isnet-general", (3, 1_500_000)),
        ("isnet-general", (1_500_000, 3)),
        ("rmbg-2.0", (3, 200_000)),
        ("rmbg-2.0", (200_000, 3)),
        ("rmbg-2.0", (600_000, 1)),
    ],
)
def test_nothing_between_a_thin_photo_and_the_networks_input_is_larger_than_both(
    name: str, size: tuple[int, int]
) -> None:
    rgb = picture(*size)
    with Largest() as largest:
        pixels = to_pixels(rgb, find(name))
    assert largest.bytes <= 4 * max(rgb.numel(), pixels.numel())


@pytest.mark.parametrize("size", [(2, 1_500_000), (1_500_000, 2)])
def test_nothing_between_a_thin_mask_and_the_cutout_is_large(size: tuple[int, int]) -> None:
    """Rows longer than a strip are processed in parts, so the float32 data is for a strip and not for a row."""
    rgb, alpha = picture(*size), torch.full(size, 128, dtype=torch.uint8)
    mask = torch.full((1, 1, 64, 64), 0.5)
    with Largest() as largest:
        refine(rgb, mask)
        clean_colours(rgb, alpha)
        compositing.on_background(rgb, alpha, (1, 2, 3))
    assert largest.bytes <= 30 * max(1 << 20, alpha.numel() // 4)


@pytest.mark.parametrize("size", [(48_640, 1000), (1000, 65_535), (65_535, 656), (328, 32_768), (8000, 6000)])
@pytest.mark.parametrize("side", [64, 256, 1024])
def test_a_photo_with_a_long_side_fits_the_shared_memory_of_a_gpu(
    size: tuple[int, int], side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch's CUDA kernel keeps the weights of both axes there, for one row of threads at least (UpSampleBilinear2d.cu)."""
    real = F.interpolate
    needed: list[int] = []

    def counted(planes: Tensor, size: tuple[int, int], **rest: Any) -> Tensor:
        down, across = (
            1 + 2 * -(-max(1, source) // max(1, wanted))
            for source, wanted in zip(planes.shape[2:], size, strict=True)
        )
        needed.append(4 * (across * 32 + down * 33))
        return real(planes, size=size, **rest)

    monkeypatch.setattr("cutout.inference.imaging.resize.F.interpolate", counted)
    rgb = torch.empty(*size, 3, dtype=torch.uint8, device="meta")
    assert resize_antialiased(rgb, side, side).shape == (side, side, 3)
    assert needed
    assert max(needed) <= 48 * 1024
