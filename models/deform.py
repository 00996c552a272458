"""Modulated deformable convolution, without torchvision.

Method: Zhu et al., "Deformable ConvNets v2: More Deformable, Better Results" (CVPR 2019).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
    row by row, with y before x. What lies outside the map counts as zero. One gather and one matrix
    product; equal to `torchvision.ops.deform_conv2d` at stride 1 and padding K//2.
    """
    batch, channels, height, width = x.shape
    kernel = weight.shape[-1]
    taps = kernel**2
    # float32 whatever x is: bfloat16 steps a whole pixel above 128.
    places = offsets.float().view(batch, taps, 2, height, width)
    axis = torch.arange(max(kernel, height, width), device=x.device, dtype=torch.float32)
    tap_y = (axis[:kernel] - kernel // 2).repeat_interleave(kernel).view(taps, 1, 1)
    tap_x = (axis[:kernel] - kernel // 2).repeat(kernel).view(taps, 1, 1)
    y = places[:, :, 0] + tap_y + axis[:height, None]
    x_ = places[:, :, 1] + tap_x + axis[:width]
    # grid_sample counts from the outer edge of the first pixel, −1, to that of the last, 1.
    grid = torch.stack(((2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1), dim=-1)
    sampled = F.grid_sample(x.float(), grid.view(batch, taps * height, width, 2), align_corners=False)
    columns = sampled.view(batch, channels, taps, height, width) * modulation[:, None]
    out = weight.flatten(1) @ columns.to(x.dtype).flatten(3).flatten(1, 2)
    return out.view(batch, -1, height, width)
