"""IS-Net, the network of RMBG-1.4 and of DIS "general use".

Method: Qin et al., "Highly Accurate Dichotomous Image Segmentation" (ECCV 2022), which nests the
U-shaped blocks of "U²-Net" (Pattern Recognition 2020) in a larger U. Module names follow the published
checkpoints, so that their keys load strictly.

Shapes in the comments below are for a 1024×1024 input; any size of at least 2 pixels works.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.models import gpu_kernels
from cutout.models.conv_relu import conv_relu


class ISNet(nn.Module):
    """Matting network: pixels float [B,3,H,W], normalised as the checkpoint specifies, → logits [B,1,H,W].

    The sigmoid of the logits is the mask, 0 (background) … 1 (foreground).
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 64, kernel_size=3, stride=2, padding=1)  # → [B,64,512,512]

        self.stage1 = ResidualU(7, 64, 32, 64)  # → [B,64,512,512]
        self.stage2 = ResidualU(6, 64, 32, 128)  # → [B,128,256,256]
        self.stage3 = ResidualU(5, 128, 64, 256)  # → [B,256,128,128]
        self.stage4 = ResidualU(4, 256, 128, 512)  # → [B,512,64,64]
        self.stage5 = DilatedResidualU(512, 256, 512)  # → [B,512,32,32]
        self.stage6 = DilatedResidualU(512, 256, 512)  # → [B,512,16,16]

        self.stage5d = DilatedResidualU(1024, 256, 512)  # → [B,512,32,32]
        self.stage4d = ResidualU(4, 1024, 128, 256)  # → [B,256,64,64]
        self.stage3d = ResidualU(5, 512, 64, 128)  # → [B,128,128,128]
        self.stage2d = ResidualU(6, 256, 32, 64)  # → [B,64,256,256]
        self.stage1d = ResidualU(7, 128, 16, 64)  # → [B,64,512,512]

        # Training supervises a mask at every scale; inference uses only the finest, side1.
        self.side1 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side2 = nn.Conv2d(64, 1, kernel_size=3, padding=1)
        self.side3 = nn.Conv2d(128, 1, kernel_size=3, padding=1)
        self.side4 = nn.Conv2d(256, 1, kernel_size=3, padding=1)
        self.side5 = nn.Conv2d(512, 1, kernel_size=3, padding=1)
        self.side6 = nn.Conv2d(512, 1, kernel_size=3, padding=1)

    def forward(self, pixels: Tensor) -> Tensor:
        x1 = self.stage1(self.conv_in(pixels))
        x2 = self.stage2(halve(x1))
        x3 = self.stage3(halve(x2))
        x4 = self.stage4(halve(x3))
        x5 = self.stage5(halve(x4))
        x6 = self.stage6(halve(x5))

        x = self.stage5d(join(x6, x5))
        x = self.stage4d(join(x, x4))
        x = self.stage3d(join(x, x3))
        x = self.stage2d(join(x, x2))
        x = self.stage1d(join(x, x1))
        return upsample(self.side1(x), pixels)


class ResidualU(nn.Module):
    """A U-Net of `height` levels, added to its own input: [B,inputs,H,W] → [B,outputs,H,W].

    "RSU7" … "RSU4" in the paper. The lowest level uses dilation instead of another halving.
    """

    def __init__(self, height: int, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.height = height
        self.rebnconvin = ConvNormReLU(inputs, outputs)
        self.add_module("rebnconv1", ConvNormReLU(outputs, middle))
        for level in range(2, height):
            self.add_module(f"rebnconv{level}", ConvNormReLU(middle, middle))
        self.add_module(f"rebnconv{height}", ConvNormReLU(middle, middle, dilation=2))
        for level in range(height - 1, 1, -1):
            self.add_module(f"rebnconv{level}d", ConvNormReLU(2 * middle, middle))
        self.add_module("rebnconv1d", ConvNormReLU(2 * middle, outputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.rebnconvin(x)

        skips: list[Tensor] = []  # outputs of the encoder's levels 1 … height-1
        x = residual
        for level in range(1, self.height):
            x = self.get_submodule(f"rebnconv{level}")(x if level == 1 else halve(x))
            skips.append(x)
        x = self.get_submodule(f"rebnconv{self.height}")(x)

        for level in range(self.height - 1, 0, -1):
            x = self.get_submodule(f"rebnconv{level}d")(join(x, skips[level - 1]))
        out: Tensor = x + residual
        return out


class DilatedResidualU(nn.Module):
    """A residual U with growing dilation instead of downsampling: [B,inputs,H,W] → [B,outputs,H,W].

    "RSU4F" in the paper, for maps that are too small to be halved again.
    """

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.rebnconvin = ConvNormReLU(inputs, outputs)
        self.rebnconv1 = ConvNormReLU(outputs, middle)
        self.rebnconv2 = ConvNormReLU(middle, middle, dilation=2)
        self.rebnconv3 = ConvNormReLU(middle, middle, dilation=4)
        self.rebnconv4 = ConvNormReLU(middle, middle, dilation=8)
        self.rebnconv3d = ConvNormReLU(2 * middle, middle, dilation=4)
        self.rebnconv2d = ConvNormReLU(2 * middle, middle, dilation=2)
        self.rebnconv1d = ConvNormReLU(2 * middle, outputs)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.rebnconvin(x)
        x1 = self.rebnconv1(residual)
        x2 = self.rebnconv2(x1)
        x3 = self.rebnconv3(x2)
        x = self.rebnconv4(x3)
        x = self.rebnconv3d(torch.cat((x, x3), dim=1))
        x = self.rebnconv2d(torch.cat((x, x2), dim=1))
        x = self.rebnconv1d(torch.cat((x, x1), dim=1))
        out: Tensor = x + residual
        return out


class ConvNormReLU(nn.Module):
    """3×3 convolution, batch normalisation, ReLU: [B,inputs,H,W] → [B,outputs,H,W]."""

    def __init__(self, inputs: int, outputs: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
        self.bn_s1: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return conv_relu(self.conv_s1, self.bn_s1, x)


def halve(x: Tensor) -> Tensor:
    """Apply 2×2 max pooling: [B,C,H,W] → [B,C,⌈H/2⌉,⌈W/2⌉]."""
    if gpu_kernels.usable(x):
        return gpu_kernels.halve(x)
    return F.max_pool2d(x, kernel_size=2, stride=2, ceil_mode=True)


def upsample(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly, without aligned corners, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def join(x: Tensor, skip: Tensor) -> Tensor:
    """Upsample the coarser `x` to the size of `skip` and concatenate both along the channels, `x` first."""
    if gpu_kernels.usable(x):
        return gpu_kernels.join(x, skip, align_corners=False, x_first=True)
    return torch.cat((upsample(x, skip), skip), dim=1)
