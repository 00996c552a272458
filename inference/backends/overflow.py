"""Whether a network's numbers fit into half precision, tried on a picture that has what photos have."""

from collections.abc import Callable

import torch
from torch import Tensor


def like_a_photo(size: int, values: tuple[float, float], device: torch.device) -> Tensor:
    """Return a network input, float32 [1,3,S,S], of the lowest to the highest of `values`.

    It shows a bright disc with a sharp edge on a dark gradient, with noise; both extremes occur.
    """
    lowest, highest = values
    axis = torch.linspace(-1, 1, size, device=device)
    inside = ((axis[:, None] ** 2 + axis**2) < 0.36).float()
    gradient = 0.25 * (axis + 1) * torch.tensor([1.0, 0.6, 0.2], device=device)[:, None, None]
    grain = torch.rand(3, size, size, device=device, generator=torch.Generator(device).manual_seed(0))
    picture = (gradient * (1 - inside) + inside + 0.2 * (grain - 0.5)).clamp_(0, 1)
    return (lowest + (highest - lowest) * picture)[None]


def overflows(forward: Callable[[Tensor], Tensor], pixels: Tensor) -> bool:
    """Return whether a network's masks of these inputs have values that are not finite."""
    return not bool(forward(pixels).isfinite().all())
