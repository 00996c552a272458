"""Resizing, joining and pooling of channels_last maps in Triton kernels, which read and write each value once."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values for each program: positions times channels.
VALUES, MOST_CHANNELS, WARPS = 4096, 128, 4


def resize(x: Tensor, height: int, width: int, *, align_corners: bool) -> Tensor:
    """Resize bilinearly: [B,C,h,w] → [B,C,height,width]."""
    out = _empty(x, x.shape[1], height, width)
    _resize(out, x, align_corners=align_corners)
    return out


def resize_add(x: Tensor, other: Tensor, *, align_corners: bool) -> Tensor:
    """Resize `x` bilinearly to the size of `other`, [B,C,H,W], and add both."""
    out = _empty(x, *other.shape[1:])
    _resize(out, x, other, add=True, align_corners=align_corners)
    return out


def join(x: Tensor, skip: Tensor, *, align_corners: bool, x_first: bool) -> Tensor:
    """Resize `x` bilinearly to the size of `skip` and concatenate both along the channels."""
    out = _empty(x, x.shape[1] + skip.shape[1], *skip.shape[2:])
    _resize(out, x, skip, x_first=x_first, align_corners=align_corners)
    return out


def halve(x: Tensor) -> Tensor:
    """Apply 2×2 max pooling: [B,C,H,W] → [B,C,⌈H/2⌉,⌈W/2⌉]."""
    x = _last(x)
    batch, channels, height, width = x.shape
    out = _empty(x, channels, (height + 1) // 2, (width + 1) // 2)
    block = _channels_at_once(channels)
    positions = max(1, VALUES // 4 // block)
    _halve[(triton.cdiv(out.shape[2] * out.shape[3], positions), channels // block, batch)](
        x, out, height, width, CHANNELS=channels, POSITIONS=positions, BLOCK=block, num_warps=WARPS
    )
    return out


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    out = like.new_empty(like.shape[0], height, width, channels)
    return out.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _channels_at_once(*channels: int) -> int:
    """Return the largest power of two, up to MOST_CHANNELS, that divides all numbers."""
    common = math.gcd(*channels, MOST_CHANNELS)
    return common & -common


def _resize(
    out: Tensor,
    x: Tensor,
    other: Tensor | None = None,
    *,
    add: bool = False,
    x_first: bool = True,
    align_corners: bool,
) -> None:
    x, other = _last(x), None if other is None else _last(other)
    joined = 0 if other is None or add else other.shape[1]
    block = _channels_at_once(x.shape[1], joined)
    positions = VALUES // block
    (height, width), (low, narrow) = out.shape[2:], x.shape[2:]
    _resize_kernel[
        (triton.cdiv(height * width, positions), (x.shape[1] + joined) // block, x.shape[0])
    ](
        x,
        x if other is None else other,  # not read in that case
        out,
        low,
        narrow,
        height,
        width,
        _scale(low, height, align_corners=align_corners),
        _scale(narrow, width, align_corners=align_corners),
        X_AT=0 if x_first else joined,
        OTHER_AT=x.shape[1] if x_first else 0,
        X_CHANNELS=x.shape[1],
        OTHER_CHANNELS=joined,
        POSITIONS=positions,
        BLOCK=block,
        ADD=add,
        ALIGNED=align_corners,
        num_warps=WARPS,
    )  # fmt: skip


def _scale(before: int, after: int, *, align_corners: bool) -> float:
    if align_corners:
        return (before - 1) / (after - 1) if after > 1 else 0.0
    return before / after


@triton.jit
def _resize_kernel(
    x_pointer,
    other_pointer,
    out_pointer,
    low,
    narrow,
    height,
    width,
    scale_y,
    scale_x,
    X_AT: tl.constexpr,
    OTHER_AT: tl.constexpr,
    X_CHANNELS: tl.constexpr,
    OTHER_CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    first = tl.program_id(1) * BLOCK
    image = tl.program_id(2).to(tl.int64)
    mask = (position < height * width)[:, None]
    place = image * height * width + position
    lane = tl.arange(0, BLOCK)[None, :]
    out_pointer += place[:, None] * (X_CHANNELS + OTHER_CHANNELS) + lane
    if first < X_CHANNELS:
        y, x = (position // width).to(tl.float32), (position % width).to(tl.float32)
        if ALIGNED:
            y, x = y * scale_y, x * scale_x
        else:
            y = tl.maximum((y + 0.5) * scale_y - 0.5, 0.0)
            x = tl.maximum((x + 0.5) * scale_x - 0.5, 0.0)
        top = tl.minimum(y.to(tl.int32), low - 1)
        left = tl.minimum(x.to(tl.int32), narrow - 1)
        bottom, right = tl.minimum(top + 1, low - 1), tl.minimum(left + 1, narrow - 1)
        down, across = (y - top)[:, None], (x - left)[:, None]
        near = x_pointer + image * low * narrow * X_CHANNELS + first + lane
        a = tl.load(near + (top * narrow + left)[:, None] * X_CHANNELS, mask=mask).to(tl.float32)
        b = tl.load(near + (top * narrow + right)[:, None] * X_CHANNELS, mask=mask).to(tl.float32)
        c = tl.load(near + (bottom * narrow + left)[:, None] * X_CHANNELS, mask=mask).to(tl.float32)
        d = tl.load(near + (bottom * narrow + right)[:, None] * X_CHANNELS, mask=mask).to(tl.float32)
        value = (a * (1 - across) + b * across) * (1 - down) + (c * (1 - across) + d * across) * down
        if ADD:
            other = other_pointer + place[:, None] * X_CHANNELS + first + lane
            value += tl.load(other, mask=mask).to(tl.float32)
        tl.store(out_pointer + X_AT + first, value.to(out_pointer.dtype.element_ty), mask=mask)
    else:
        skip = other_pointer + place[:, None] * OTHER_CHANNELS + (first - X_CHANNELS) + lane
        tl.store(out_pointer + OTHER_AT + (first - X_CHANNELS), tl.load(skip, mask=mask), mask=mask)


@triton.jit
def _halve(
    x_pointer,
    out_pointer,
    height,
    width,
    CHANNELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    half_height, half_width = (height + 1) // 2, (width + 1) // 2
    position = tl.program_id(0) * POSITIONS + tl.arange(0, POSITIONS)
    channel = (tl.program_id(1) * BLOCK + tl.arange(0, BLOCK))[None, :]
    image = tl.program_id(2).to(tl.int64)
    valid = position < half_height * half_width
    row, column = position // half_width, position % half_width
    highest = tl.full((POSITIONS, BLOCK), float("-inf"), x_pointer.dtype.element_ty)
    for corner in tl.static_range(4):
        y, x = 2 * row + corner // 2, 2 * column + corner % 2
        mask = (valid & (y < height) & (x < width))[:, None]
        place = (image * height * width + y * width + x)[:, None] * CHANNELS + channel
        # As in torch, what is not a number stays so: it is how an overflow is noticed.
        value = tl.load(x_pointer + place, mask=mask, other=float("-inf"))
        highest = tl.maximum(highest, value, propagate_nan=tl.PropagateNan.ALL)
    place = (image * half_height * half_width + position)[:, None] * CHANNELS + channel
    tl.store(out_pointer + place, highest, mask=valid[:, None])
