"""Deformable convolution compared with a direct implementation of its definition."""

import numpy as np
import numpy.typing as npt
import pytest
import torch

from cutout.models import deform_conv
from cutout.models.deform_conv import deform_conv2d

pytestmark = pytest.mark.slow

Array = npt.NDArray[np.float64]


def by_definition(x: Array, offsets: Array, modulation: Array, weight: Array) -> Array:
    """Loop over positions and taps; samples outside the input are zero."""
    inputs, height, width = x.shape
    kernel = weight.shape[-1]
    out = np.zeros((len(weight), height, width))

    def pixel(y: int, x_: int) -> Array:
        return x[:, y, x_] if 0 <= y < height and 0 <= x_ < width else np.zeros(inputs)

    for row, column, tap in np.ndindex(height, width, kernel**2):
        down, across = divmod(tap, kernel)
        y = row + down - kernel // 2 + offsets[2 * tap, row, column]
        x_ = column + across - kernel // 2 + offsets[2 * tap + 1, row, column]
        top, left = int(np.floor(y)), int(np.floor(x_))
        fy, fx = y - top, x_ - left
        value = (
            (1 - fy) * ((1 - fx) * pixel(top, left) + fx * pixel(top, left + 1))
            + fy * ((1 - fx) * pixel(top + 1, left) + fx * pixel(top + 1, left + 1))
        )  # fmt: skip
        out[:, row, column] += weight[:, :, down, across] @ (value * modulation[tap, row, column])
    return out


def inputs(kernel: int, height: int, width: int, batch: int = 2) -> tuple[torch.Tensor, ...]:
    """Return a feature map, offsets of some pixels, modulation and weights."""
    generator = torch.Generator().manual_seed(kernel)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x = normal(batch, 4, height, width)
    offsets = 2 * normal(batch, 2 * kernel**2, height, width)
    modulation = 2 * normal(batch, kernel**2, height, width).sigmoid()
    return x, offsets, modulation, normal(3, 4, kernel, kernel)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize("strip_places", [1, 2**18])
def test_is_what_the_definition_says(kernel: int, strip_places: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deform_conv, "STRIP_PLACES", strip_places)
    x, offsets, modulation, weight = inputs(kernel, 6, 9)
    found = deform_conv2d(x, offsets, modulation, weight)
    for index in range(len(x)):
        arrays = (part.double().numpy() for part in (x[index], offsets[index], modulation[index], weight))
        np.testing.assert_allclose(found[index].numpy(), by_definition(*arrays), atol=1e-4)


def test_bfloat16_looks_at_the_right_pixel_far_from_the_corner() -> None:
    """A ramp is read at whole-pixel offsets; with bfloat16 coordinates, positions above 128 would be a pixel off."""
    width = 400
    ramp = (torch.arange(width) % 8).expand(1, 1, 3, width).to(torch.bfloat16)
    offsets = torch.zeros(1, 2, 3, width, dtype=torch.bfloat16)
    offsets[:, 1] = 1
    ones = torch.ones(1, 1, 3, width, dtype=torch.bfloat16)
    found = deform_conv2d(ramp, offsets, ones, torch.ones(1, 1, 1, 1, dtype=torch.bfloat16))
    torch.testing.assert_close(found[..., :-1], ramp[..., 1:], atol=1e-2, rtol=0)
