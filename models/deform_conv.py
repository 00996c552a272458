"""Modulated deformable convolution, without torchvision.

Method: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results" (CVPR 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Sampling points gathered at once for each image: 64 MiB of float32 with the network's 64 channels. Gathering the
# whole map at once takes 1.5 times as long on a CPU, because it does not fit the caches.
STRIP_PLACES = 2**18


class DeformableConv2d(nn.Module):
    """Convolution with learnt sampling offsets and modulation: [B,in,H,W] → [B,out,H,W].

    Each tap of the kernel reads the map at its own position plus a predicted offset, in pixels, and scales
    the value by a predicted modulation of 0…2.
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
    """Apply a modulated deformable convolution with `weight` [out,in,K,K]: [B,in,H,W] → [B,out,H,W].

    `offsets` [B,2·K²,H,W], in pixels, and `modulation` [B,K²,H,W] list the taps in the kernel's order, row
    by row; offsets have y before x. Values outside the map count as zero. The result equals
    `torchvision.ops.deform_conv2d` at stride 1 and padding K//2. It is computed as a gather and a matrix
    product, one strip of rows at a time, because the gathered values take K² times the memory of the map.
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
    """Return the sampling position of each tap in `grid_sample` coordinates.

    float32 [B,2·K²,H,W] → [B,K²,H,W,2], x before y. The grid is float32 whatever dtype the network runs in:
    above 128, the step of bfloat16 is a whole pixel.
    """
    height, width = offsets.shape[2:]
    y, x = offsets.unflatten(1, (kernel**2, 2)).unbind(2)
    axis = torch.arange(-(kernel // 2), kernel // 2 + 1, device=offsets.device, dtype=torch.float32)
    y = y + axis.repeat_interleave(kernel)[:, None, None] + places_of(height, offsets)[:, None]
    x = x + axis.repeat(kernel)[:, None, None] + places_of(width, offsets)
    # −1 is the outer edge of the first pixel, 1 that of the last (align_corners=False).
    return torch.stack(((2 * x + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)


def places_of(length: int, like: Tensor) -> Tensor:
    """Return 0, 1 … length-1 with the device and dtype of `like`."""
    return torch.arange(length, device=like.device, dtype=like.dtype)
