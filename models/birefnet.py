"""BiRefNet, the network of RMBG-2.0 and of the open BiRefNet checkpoints.

Method: Zheng et al., "Bilateral Reference for High-Resolution Dichotomous Image Segmentation" (CAAI
AIR 2024). Module names follow the published checkpoints, so that their keys load strictly; modules
marked "training only" exist for the same reason.

Shapes in the comments below are for a 1024×1024 input and the channels of Swin-L. Height and width of the
input must be multiples of 32.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.models import gpu_kernels
from cutout.models.catalog import Depths, PatchOrder
from cutout.models.conv_relu import conv_relu
from cutout.models.deform_conv import DeformableConv2d
from cutout.models.swin import SIZES, SwinTransformer

STRIDE = 32  # input pixels per pixel of the coarsest feature map


class BiRefNet(nn.Module):
    """Matting network: pixels float [B,3,H,W], normalised as the checkpoint specifies, → logits [B,1,H,W].

    The sigmoid of the logits is the mask, 0 (background) … 1 (foreground).

    Raises:
        ValueError: in `forward`, if height or width is not a multiple of 32.

    """

    def __init__(self, backbone: str, patch_order: PatchOrder, depths: Depths | None = None) -> None:
        """`depths`: the blocks of each stage of the backbone, if not as many as `SIZES` says."""
        super().__init__()
        size = SIZES[backbone] if depths is None else replace(SIZES[backbone], depths=depths)
        # The backbone runs on the photo at two scales, so there are two maps per level.
        channels = [2 * channels for channels in size.channels]
        self.bb = SwinTransformer(size)
        self.squeeze_module = nn.Sequential(DecoderBlock(sum(channels), channels[3]))
        self.decoder = Decoder(channels, patch_order)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        if height % STRIDE or width % STRIDE:
            raise ValueError(f"BiRefNet needs multiples of {STRIDE} pixels, not {width}×{height}")
        x1, x2, x3, x4 = self.encode(pixels)
        context = [resize(x, x4) for x in (x1, x2, x3)]
        x4 = self.squeeze_module(torch.cat((*context, x4), dim=1))  # → [B,3072,32,32]
        logits: Tensor = self.decoder(pixels, x1, x2, x3, x4)
        return logits

    def encode(self, pixels: Tensor) -> list[Tensor]:
        """Run the backbone on the photo at full and at half size and concatenate its maps level by level.

        For Swin-L: [B,384,256,256], [B,768,128,128], [B,1536,64,64], [B,3072,32,32].
        """
        height, width = pixels.shape[2:]
        half = F.interpolate(pixels, (height // 2, width // 2), mode="bilinear", align_corners=True)
        return [join(full, coarse) for full, coarse in zip(self.bb(pixels), self.bb(half), strict=True)]


class Decoder(nn.Module):
    """Decoder from the coarsest map to the finest; each level adds the backbone's map and patches of the photo.

    The photo is cut into patches, one for each pixel of the map ("inward reference"). A learnt gate lets
    the map through where the photo has detail ("outward reference").
    """

    def __init__(self, channels: list[int], patch_order: PatchOrder) -> None:
        super().__init__()
        c1, c2, c3, c4 = channels
        self.patch_order = patch_order

        self.ipt_blk5 = SimpleConvs(32 * 32 * 3, c4 // 8)  # [B,3072,32,32] → [B,384,32,32]
        self.ipt_blk4 = SimpleConvs(16 * 16 * 3, c4 // 8)  # [B,768,64,64] → [B,384,64,64]
        self.ipt_blk3 = SimpleConvs(8 * 8 * 3, c3 // 8)  # [B,192,128,128] → [B,192,128,128]
        self.ipt_blk2 = SimpleConvs(4 * 4 * 3, c2 // 8)  # [B,48,256,256] → [B,96,256,256]
        self.ipt_blk1: nn.Module = SimpleConvs(3, c1 // 8)  # [B,3,1024,1024] → [B,48,1024,1024]

        self.decoder_block4 = DecoderBlock(c4 + c4 // 8, c3)  # → [B,1536,32,32]
        self.decoder_block3 = DecoderBlock(c3 + c4 // 8, c2)  # → [B,768,64,64]
        self.decoder_block2 = DecoderBlock(c2 + c3 // 8, c1)  # → [B,384,128,128]
        self.decoder_block1 = DecoderBlock(c1 + c2 // 8, c1 // 2)  # → [B,192,256,256]
        self.conv_out1: nn.Module = nn.Sequential(nn.Conv2d(c1 // 2 + c1 // 8, 1, kernel_size=1))

        self.lateral_block4 = LateralBlock(c3)
        self.lateral_block3 = LateralBlock(c2)
        self.lateral_block2 = LateralBlock(c1)

        for level, inputs in ((4, c3), (3, c2), (2, c1)):
            gradient = nn.Sequential(nn.Conv2d(inputs, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
            self.add_module(f"gdt_convs_{level}", gradient)
            self.add_module(f"gdt_convs_attn_{level}", nn.Sequential(nn.Conv2d(16, 1, kernel_size=1)))
            # training only: supervision of masks and gradients at every level
            self.add_module(f"gdt_convs_pred_{level}", nn.Sequential(nn.Conv2d(16, 1, kernel_size=1)))
            self.add_module(f"conv_ms_spvn_{level}", nn.Conv2d(inputs, 1, kernel_size=1))

    def forward(self, pixels: Tensor, x1: Tensor, x2: Tensor, x3: Tensor, x4: Tensor) -> Tensor:
        x = torch.cat((x4, self.ipt_blk5(self.patches(pixels, x4))), dim=1)
        x = self.gate(self.decoder_block4(x), level=4)

        x = resize_add(x, self.lateral_block4(x3))
        x = torch.cat((x, self.ipt_blk4(self.patches(pixels, x3))), dim=1)
        x = self.gate(self.decoder_block3(x), level=3)

        x = resize_add(x, self.lateral_block3(x2))
        x = torch.cat((x, self.ipt_blk3(self.patches(pixels, x2))), dim=1)
        x = self.gate(self.decoder_block2(x), level=2)

        x = resize_add(x, self.lateral_block2(x1))
        x = torch.cat((x, self.ipt_blk2(self.patches(pixels, x1))), dim=1)
        return self.head(x, pixels)

    def head(self, x: Tensor, pixels: Tensor) -> Tensor:
        """Compute the logits [B,1,1024,1024] from the finest map, [B,480,256,256], and the photo."""
        x = resize(self.decoder_block1(x), pixels)
        out: Tensor = self.conv_out1(torch.cat((x, self.ipt_blk1(pixels)), dim=1))
        return out

    def gate(self, x: Tensor, level: int) -> Tensor:
        """Scale each pixel of [B,C,H,W] by a gate of 0…1, which was trained on the photo's gradients."""
        gradient = self.get_submodule(f"gdt_convs_{level}")(x)
        gate: Tensor = self.get_submodule(f"gdt_convs_attn_{level}")(gradient).sigmoid()
        return x * gate

    def patches(self, pixels: Tensor, like: Tensor) -> Tensor:
        """Cut the photo into patches of the size of `like` and stack them along the channel axis.

        [B,3,H,W] → [B,3·(H/h)·(W/w),h,w], in the checkpoint's patch order.
        """
        height, width = like.shape[2:]
        grid = pixels.unflatten(3, (-1, width)).unflatten(2, (-1, height))  # [B,c,hg,h,wg,w]
        order = (0, 4, 2, 1, 3, 5) if self.patch_order == "wg hg c" else (0, 1, 2, 4, 3, 5)
        patches: Tensor = grid.permute(order).flatten(1, 3)
        return patches


class DecoderBlock(nn.Module):
    """Convolution, ASPP, convolution: [B,inputs,H,W] → [B,outputs,H,W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(inputs, 64, 3, padding=1)
        self.bn_in: nn.Module = nn.BatchNorm2d(64)
        self.dec_att: nn.Module = ASPPDeformable(64)
        self.conv_out = nn.Conv2d(64, outputs, 3, padding=1)
        self.bn_out: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.dec_att(conv_relu(self.conv_in, self.bn_in, x))
        out: Tensor = self.bn_out(self.conv_out(x))
        return out


class ASPPDeformable(nn.Module):
    """Four deformable convolutions and the global mean, concatenated and mixed by a 1×1 layer.

    [B,C,H,W] → the same shape.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.aspp1 = DeformableBranch(channels, 256, kernel=1)
        self.aspp_deforms = nn.ModuleList(DeformableBranch(channels, 256, kernel) for kernel in (1, 3, 7))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * 256, channels, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.aspp1(x), *(branch(x) for branch in self.aspp_deforms)]
        mean = self.global_avg_pool(x).expand_as(branches[0])
        return F.relu(self.bn1(self.conv1(torch.cat((*branches, mean), dim=1))))


class DeformableBranch(nn.Module):
    """Deformable convolution, batch normalisation, ReLU: [B,inputs,H,W] → [B,outputs,H,W]."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.atrous_conv = DeformableConv2d(inputs, outputs, kernel)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))


class SimpleConvs(nn.Module):
    """Two 3×3 convolutions through 64 channels: [B,inputs,H,W] → [B,outputs,H,W]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, 64, 3, padding=1)
        self.conv_out = nn.Conv2d(64, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv_out(self.conv1(x))
        return out


class LateralBlock(nn.Module):
    """A 1×1 convolution of one of the backbone's maps: [B,C,H,W] → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv2d(channels, channels, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return out


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Resize bilinearly, with aligned corners, to the height and width of `like`."""
    if gpu_kernels.usable(x):
        return gpu_kernels.resize(x, *like.shape[2:], align_corners=True)
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=True)


def resize_add(x: Tensor, other: Tensor) -> Tensor:
    """Resize `x` to the height and width of `other`, and add both."""
    if gpu_kernels.usable(x):
        return gpu_kernels.resize_add(x, other, align_corners=True)
    return resize(x, other) + other


def join(fine: Tensor, coarse: Tensor) -> Tensor:
    """Resize `coarse` to the size of `fine` and concatenate both along the channels, `fine` first."""
    if gpu_kernels.usable(fine):
        return gpu_kernels.join(coarse, fine, align_corners=True, x_first=False)
    return torch.cat((fine, resize(coarse, fine)), dim=1)
