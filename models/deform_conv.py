"""Modulated deformable convolution, without torchvision.

Method: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results" (CVPR 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Places gathered at once, for each picture: 64 MiB of float32 in the network's 64 channels. The whole map at
# once takes half as long again on a CPU, whose caches it leaves.
STRIP_PLACES = 2**18


class DeformableConv2d(nn.Module):
    """A convolution that learns where to look and how much of it to take: [B,in,H,W] → [B,out,H,W].

    Each tap of the kernel reads the map at its own place plus a learnt offset, in pixels, and scales
    what it reads by a learnt modulation of 0…2.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.offset_conv = nn.Conv2d(inputs, 2 * kernel**2, kernel, padding=kernel // 2)
        self.modulator_conv = nn.Conv2d(inputs, kernel**2, kernel, padding=kernel // 2)
        self.regular_conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        modulation = 2 * self.modulator_conv(x).sigmoid()
        return deform_conv2d(x, self.offset_conv(x), modulation, self.regular_conv.weight)


def deform_conv2d(x: Tensor, offsets: Tensor, modulation: Tensor, weight: Tensor) -> Tensor:
    """Modulated deformable convolution of [B,in,H,W] with `weight` [out,in,K,K] → [B,out,H,W].

    `offsets` [B,2·K²,H,W], in pixels, and `modulation` [B,K²,H,W] have the taps in the kernel's order,
    row by row, with y before x. What lies outside the map counts as zero. Equal to
    `torchvision.ops.deform_conv2d` at stride 1 and padding K//2; here it is a gather and a matrix product,
    strip by strip of the map: what is gathered is K² times as large as the map.
    """
    width = x.shape[3]
    taps = weight.shape[-1] ** 2
    rows = max(1, STRIP_PLACES // (taps * width))
    grid = sampling_grid(offsets.float(), weight.shape[-1])
    picture, kernels = x.float(), weight.flatten(1)
    strips = []
    for places, scale in zip(grid.split(rows, dim=2), modulation.split(rows, dim=2), strict=True):
        gathered = F.grid_sample(picture, places.flatten(1, 2), align_corners=False)  # [B,in,K²·rows,W]
        columns = gathered.unflatten(2, (taps, -1)).mul_(scale[:, None]).to(x.dtype)
        product = kernels @ columns.flatten(3).flatten(1, 2)  # [B,out,rows·W]
        strips.append(product.unflatten(2, (-1, width)))
    return torch.cat(strips, dim=2)


def sampling_grid(offsets: Tensor, kernel: int) -> Tensor:
    """Where each tap reads, as `grid_sample` counts: float32 [B,2·K²,H,W] → [B,K²,H,W,2], x before y.

    float32 whatever the network runs in: bfloat16 steps a whole pixel above 128.
    """
    height, width = offsets.shape[2:]
    y, x = offsets.unflatten(1, (kernel**2, 2)).unbind(2)
    axis = torch.arange(-(kernel // 2), kernel // 2 + 1, device=offsets.device, dtype=torch.float32)
    y = y + axis.repeat_interleave(kernel)[:, None, None] + places_of(height, offsets)[:, None]
    x = x + axis.repeat(kernel)[:, None, None] + places_of(width, offsets)
    # From the outer edge of the first pixel, −1, to that of the last, 1.
    return torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)


def places_of(length: int, like: Tensor) -> Tensor:
    """0, 1 … length-1, as `like`."""
    return torch.arange(length, device=like.device, dtype=like.dtype)
