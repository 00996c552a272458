"""Modulated deformable convolution in one Triton kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Positions of the map for each program, and its warps: the fastest of six pairs on an H100.
BLOCK, WARPS = 64, 8


def deform_branch(x: Tensor, place: Tensor, weight: Tensor, bias: Tensor, share: Tensor) -> Tensor:
    """Deformable convolution, bias, ReLU and a 1×1 convolution in one kernel: [B,C,H,W] → [B,C,H,W].

    `place` [B,≥3·K²,H,W] holds the offsets, in pixels, then the modulation before its sigmoid; `weight` is
    [K²,C,M], `bias` [M], `share` [C,M,1,1]. C and M are powers of two of at least 16. `x` and `place` are
    channels_last, and so is the result. The gathered values and the M channels in between stay on the chip:
    in memory they would be K² and M/C times the map.

    Method: the gather of Zhu et al., "Deformable ConvNets v2" (CVPR 2019), as the left side of a tiled
    matrix product.
    """
    batch, channels, height, width = x.shape
    taps, _, middle = weight.shape
    x, place = (part.contiguous(memory_format=torch.channels_last) for part in (x, place))
    out = torch.empty_like(x)
    _deform_branch[(triton.cdiv(height * width, BLOCK), batch)](
        x,
        place,
        weight,
        bias,
        share.flatten(1).contiguous(),
        out,
        height,
        width,
        place.shape[1],
        TAPS=taps,
        KERNEL=round(taps**0.5),
        CHANNELS=channels,
        MIDDLE=middle,
        BLOCK=BLOCK,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _deform_branch(
    x_pointer,
    place_pointer,
    weight_pointer,
    bias_pointer,
    share_pointer,
    out_pointer,
    height,
    width,
    place_channels,
    TAPS: tl.constexpr,
    KERNEL: tl.constexpr,
    CHANNELS: tl.constexpr,
    MIDDLE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    position = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    image = tl.program_id(1).to(tl.int64) * height * width
    valid = position < height * width
    row, column = position // width, position % width
    channel, middle = tl.arange(0, CHANNELS), tl.arange(0, MIDDLE)
    x_pointer += image * CHANNELS
    place_pointer += (image + position) * place_channels

    total = tl.zeros((BLOCK, MIDDLE), tl.float32)
    for tap in range(TAPS):
        down = tl.load(place_pointer + 2 * tap, mask=valid, other=0.0).to(tl.float32)
        across = tl.load(place_pointer + 2 * tap + 1, mask=valid, other=0.0).to(tl.float32)
        raw = tl.load(place_pointer + 2 * TAPS + tap, mask=valid, other=0.0).to(tl.float32)
        # Positions a pixel or more outside the map read only zeros, so that they may be moved to just outside.
        y = tl.clamp(row + (tap // KERNEL - KERNEL // 2) + down, -2.0, height + 1.0)
        x = tl.clamp(column + (tap % KERNEL - KERNEL // 2) + across, -2.0, width + 1.0)
        top, left = tl.floor(y), tl.floor(x)
        modulation = 2 * tl.sigmoid(raw)
        values = tl.zeros((BLOCK, CHANNELS), tl.float32)
        for corner in tl.static_range(4):
            near_y, near_x = top.to(tl.int32) + corner // 2, left.to(tl.int32) + corner % 2
            share_y = (y - top) if corner // 2 else (top + 1 - y)
            share_x = (x - left) if corner % 2 else (left + 1 - x)
            inside = valid & (near_y >= 0) & (near_y < height) & (near_x >= 0) & (near_x < width)
            pixel = tl.load(
                x_pointer + (near_y * width + near_x)[:, None] * CHANNELS + channel[None, :],
                mask=inside[:, None],
                other=0.0,
            )
            values += pixel.to(tl.float32) * (share_y * share_x * modulation)[:, None]
        kernel = tl.load(weight_pointer + (tap * CHANNELS + channel)[:, None] * MIDDLE + middle[None, :])
        total = tl.dot(values.to(kernel.dtype), kernel, total, input_precision="ieee")

    # As in torch, what is not a number stays so: it is how an overflow is noticed.
    total = total + tl.load(bias_pointer + middle).to(tl.float32)[None, :]
    total = tl.maximum(total, 0.0, propagate_nan=tl.PropagateNan.ALL)
    mix = tl.load(share_pointer + channel[:, None] * MIDDLE + middle[None, :])
    result = tl.dot(total.to(mix.dtype), tl.trans(mix), input_precision="ieee")
    tl.store(
        out_pointer + (image + position)[:, None] * CHANNELS + channel[None, :],
        result.to(out_pointer.dtype.element_ty),
        mask=valid[:, None],
    )
