"""Exact rewrites that reduce a network's time and memory; its output changes only by float rounding.

The plain networks stay as published, so that they are easy to read and load published weights. This
module replaces some of their parts with cheaper equivalents. The benchmark `rewrites` measures what each
one saves.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cutout.models import gpu_kernels, onnx_attention
from cutout.models.birefnet import (
    ASPPDeformable,
    BiRefNet,
    DecoderBlock,
    DeformableBranch,
    LateralBlock,
    SimpleConvs,
)
from cutout.models.deform_conv import deform_conv2d
from cutout.models.isnet import ConvNormReLU, ISNet
from cutout.models.swin import Block, WindowAttention, pad_to_windows


def optimise(network: nn.Module) -> nn.Module:
    """Rewrite `network` in place for inference and return it, in eval mode and without gradients.

    Every BatchNorm is folded into the convolution before it, and training-only parts are dropped. The
    rewritten network no longer loads published state dicts and must not be rewritten again.
    """
    network.eval().requires_grad_(False)
    for rewrite in REWRITES:
        rewrite(network)
    return network


def fit_to_gpu(network: nn.Module) -> nn.Module:
    """Rewrite an optimised network in place so that its convolutions suit a GPU's tensor cores, and return it.

    cuDNN is slower with numbers of channels that are no multiple of 8, and adds a bias in a kernel of its own.
    """
    for module in network.modules():
        if isinstance(module, SummedBranch):
            module.place = padded(module.place)
        if isinstance(module, TapSum):
            module.taps = padded(module.taps)
        if isinstance(module, LateralBlock):
            assert isinstance(module.conv, nn.Conv2d)
            module.conv = Pointwise(module.conv)
    return network


def drop_training(network: nn.Module) -> None:
    """Drop the outputs that only training uses."""
    if isinstance(network, ISNet):
        for level in range(2, 7):
            delattr(network, f"side{level}")
    if isinstance(network, BiRefNet):
        for level in range(2, 5):
            delattr(network.decoder, f"gdt_convs_pred_{level}")
            delattr(network.decoder, f"conv_ms_spvn_{level}")


def fold_norms(network: nn.Module) -> None:
    """Fold each BatchNorm into the convolution before it."""
    for module in network.modules():
        if isinstance(module, ConvNormReLU):
            module.conv_s1, module.bn_s1 = folded(module.conv_s1, module.bn_s1), nn.Identity()
        if isinstance(module, DecoderBlock):
            module.conv_in, module.bn_in = folded(module.conv_in, module.bn_in), nn.Identity()
            module.conv_out, module.bn_out = folded(module.conv_out, module.bn_out), nn.Identity()
        if isinstance(module, nn.Sequential):
            for index in range(1, len(module)):
                if isinstance(module[index], nn.BatchNorm2d):
                    module[index - 1] = folded(module[index - 1], module[index])
                    module[index] = nn.Identity()


def fuse_attention(network: nn.Module) -> None:
    """Replace window attention with `FusedWindowAttention`: one kernel, linear layers on real tokens only."""
    for module in network.modules():
        if isinstance(module, Block) and isinstance(module.attn, WindowAttention):
            module.attn = FusedWindowAttention(module.attn)


def sum_branches(network: nn.Module) -> None:
    """Sum the branches of each ASPP one by one instead of concatenating 1,280 channels."""
    for module in network.modules():
        if isinstance(module, DecoderBlock) and isinstance(module.dec_att, ASPPDeformable):
            module.dec_att = SummedASPP(module.dec_att)


def fold_head(network: nn.Module) -> None:
    """Apply the linear layers at the end of BiRefNet, except the sum, at a quarter of the size.

    `conv_out1` computes a weighted sum of the channels of two upsampled maps. After the rewrite the
    weights are applied before upsampling, so that each map has one channel when it is brought to full size.
    The weights for the finest decoder block are folded into that block's last convolution, those for the
    photo's map into `TapSum`.
    """
    if not isinstance(network, BiRefNet):
        return
    decoder = network.decoder
    last, block, photo = decoder.get_submodule("conv_out1.0"), decoder.decoder_block1, decoder.ipt_blk1
    assert isinstance(last, nn.Conv2d)
    assert isinstance(photo, SimpleConvs)
    of_block, of_photo = last.weight.split((block.conv_out.out_channels, photo.conv_out.out_channels), dim=1)
    block.conv_out = weigh(block.conv_out, of_block, last.bias)
    decoder.ipt_blk1 = TapSum(photo.conv1, weigh(photo.conv_out, of_photo, None))
    decoder.conv_out1 = ChannelSum()


# The order matters: `fold_head` needs the norms of the head to be folded already.
REWRITES = (drop_training, fold_norms, fuse_attention, sum_branches, fold_head)


class FusedWindowAttention(nn.Module):
    """`WindowAttention` in one kernel, with linear layers on real tokens only: [B,H,W,C] → the same shape.

    The zero padding is added after the linear layer here, where the plain module has that layer's bias in
    the padded tokens. To keep the result equal, the biases of keys and values are removed: the keys' bias
    adds the same amount to all scores of a query, so the softmax cancels it; the values' bias passes
    through the weighted mean unchanged, so it is added after the attention.
    """

    def __init__(self, plain: WindowAttention) -> None:
        super().__init__()
        self.heads, self.window, self.shift = plain.heads, plain.window, plain.shift
        self.qkv, self.proj = plain.qkv, plain.proj
        of_q, _, of_v = self.qkv.bias.chunk(3)
        self.proj.bias = parameter(self.proj.bias + self.proj.weight @ of_v)
        self.qkv.bias = parameter(torch.cat((of_q, torch.zeros_like(of_q), torch.zeros_like(of_q))))
        self.bias = parameter(plain.position_bias().contiguous())  # [heads,N,N]

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        if gpu_kernels.usable(x):
            x = gpu_kernels.window_attention(self.qkv(x), self.bias, self.heads, self.window, self.shift)
            return self.proj(x)  # type: ignore[no-any-return]
        if torch.onnx.is_in_onnx_export():
            x = onnx_attention.window_attention(x, self.qkv, self.bias, self.heads, self.window, self.shift)
            return self.proj(x)  # type: ignore[no-any-return]
        x = pad_to_windows(self.qkv(x), self.window)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        rows, columns = x.shape[1] // self.window, x.shape[2] // self.window

        # [B,rows,window,columns,window,3,heads,C/heads] → q, k and v, [B,nW,heads,N,C/heads] each
        x = (
            x.unflatten(3, (3, self.heads, -1))
            .unflatten(2, (-1, self.window))
            .unflatten(1, (-1, self.window))
        )
        q, k, v = x.permute(5, 0, 1, 3, 6, 2, 4, 7).flatten(5, 6).flatten(2, 3)
        if self.shift:
            bias = (self.bias + mask[:, None]).flatten(0, 1)[None]  # [1,nW·heads,N,N]
            q, k, v = (part.flatten(1, 2) for part in (q, k, v))
        else:
            bias = self.bias[None]  # [1,heads,N,N]
            q, k, v = (part.flatten(0, 1) for part in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

        x = x.reshape(-1, rows, columns, self.heads, self.window, self.window, x.shape[-1])
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        out: Tensor = self.proj(x[:, :height, :width])
        return out


class SummedASPP(nn.Module):
    """`ASPPDeformable` with its joint 1×1 layer split among the branches: [B,C,H,W] → the same shape.

    This avoids a map of 1,280 channels, and the global mean stays a single pixel.
    """

    def __init__(self, plain: ASPPDeformable) -> None:
        super().__init__()
        joint = folded(plain.conv1, plain.bn1)
        *of_branches, of_mean = joint.weight.chunk(5, dim=1)
        branches = [module for module in plain.modules() if isinstance(module, DeformableBranch)]
        self.branches = nn.ModuleList(
            SummedBranch(branch, weight) for branch, weight in zip(branches, of_branches, strict=True)
        )
        self.mean = nn.Sequential(*plain.global_avg_pool, conv1x1(of_mean, joint.bias))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mean(x)  # [B,C,1,1]
        for branch in self.branches:
            out = out + branch(x)
        return F.relu(out)


class SummedBranch(nn.Module):
    """A deformable branch with its share of the joint 1×1 layer: [B,C,H,W] → the same shape.

    BatchNorm is folded into the kernel, and one convolution computes both offsets and modulation.
    """

    def __init__(self, plain: DeformableBranch, share: Tensor) -> None:
        super().__init__()
        deform = plain.atrous_conv
        kernel = folded(deform.regular_conv, plain.bn)
        self.kernel, self.taps = deform.kernel, deform.kernel**2
        self.weight = parameter(kernel.weight.flatten(2).permute(2, 1, 0).contiguous())  # [K²,C,M]
        self.bias = kernel.get_parameter("bias")
        self.place = nn.Conv2d(
            deform.offset_conv.in_channels, 3 * self.taps, deform.kernel, padding=deform.kernel // 2
        )
        for name in ("weight", "bias"):
            both = deform.offset_conv.get_parameter(name), deform.modulator_conv.get_parameter(name)
            setattr(self.place, name, parameter(torch.cat(both)))
        self.share = conv1x1(share, None)

    def forward(self, x: Tensor) -> Tensor:
        if gpu_kernels.usable(x):
            return gpu_kernels.deform_branch(x, self.place(x), self.weight, self.bias, self.share.weight)
        placed = self.place(x)
        offsets, modulation = placed[:, : 2 * self.taps], placed[:, 2 * self.taps : 3 * self.taps]
        weight = self.weight.permute(2, 1, 0).unflatten(2, (self.kernel, self.kernel))
        x = deform_conv2d(x, offsets, 2 * modulation.sigmoid(), weight)
        out: Tensor = self.share(F.relu(x + self.bias[:, None, None]))
        return out


class TapSum(nn.Module):
    """Two 3×3 convolutions to one channel without the 64 channels in between: [B,3,H,W] → [B,1,H,W].

    A 3×3 convolution adds up nine shifted maps. Each of the nine is linear in the photo, so one
    convolution computes them all, and only the sum remains. This is exact at the borders too, because
    values shifted in from outside count as zero.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        of_taps = second.weight[0].flatten(1).T[:, :, None, None]  # [9,64,1,1]
        self.taps = weigh(first, of_taps, None)
        self.bias = parameter(second.get_parameter("bias"))

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        taps = F.pad(self.taps(pixels), (1, 1, 1, 1))
        total = self.bias[:, None, None]
        for tap in range(9):
            down, across = divmod(tap, 3)
            total = total + taps[:, tap : tap + 1, down : down + height, across : across + width]
        return total


class Pointwise(nn.Module):
    """A 1×1 convolution as a linear layer, which adds its bias within the product: [B,C,H,W] → [B,D,H,W]."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = parameter(conv.weight.flatten(1))
        self.bias = parameter(conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


class ChannelSum(nn.Module):
    """Sum over channels: [B,C,H,W] → [B,1,H,W]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sum(dim=1, keepdim=True)


def folded(conv: nn.Module, norm: nn.Module) -> nn.Conv2d:
    """Return one convolution that equals `conv` followed by the BatchNorm `norm`."""
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(conv, norm)


def weigh(conv: nn.Conv2d, weights: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return one convolution that equals `conv` followed by a 1×1 one of `weights` [out,in,1,1] and `bias`."""
    mix = weights.flatten(1).double()
    out = nn.Conv2d(conv.in_channels, len(mix), conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    shift = mix @ conv.get_parameter("bias").double() + (0 if bias is None else bias.double())
    out.weight = parameter(torch.einsum("oc,cihw->oihw", mix, conv.weight.double()).to(conv.weight.dtype))
    out.bias = parameter(shift.to(conv.weight.dtype))
    return out


def padded(conv: nn.Conv2d) -> nn.Conv2d:
    """Return the convolution with channels that are zero behind its own, up to a multiple of 8."""
    more = -conv.out_channels % 8
    out = nn.Conv2d(conv.in_channels, conv.out_channels + more, conv.kernel_size, padding=conv.padding)  # type: ignore[arg-type]
    out.weight = parameter(F.pad(conv.weight, (0, 0, 0, 0, 0, 0, 0, more)))
    out.bias = parameter(F.pad(conv.get_parameter("bias"), (0, more)))
    return out


def conv1x1(weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    """Return a 1×1 convolution with `weight` [out,in,1,1] and `bias`."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=1, bias=bias is not None)
    conv.weight = parameter(weight)
    conv.bias = None if bias is None else parameter(bias)
    return conv


def parameter(value: Tensor) -> nn.Parameter:
    """Return a copy of `value` as a parameter without gradients."""
    return nn.Parameter(value.detach().clone(), requires_grad=False)
