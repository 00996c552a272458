"""Attention within shifted windows, straight from and to image layout, in one Triton kernel."""

import triton
import triton.language as tl
from torch import Tensor

# Queries for each program, and its warps: among the fastest of nine pairs on an H100.
QUERIES, WARPS = 64, 4
LEAST = 16  # the smallest side of a block in a product


def window_attention(qkv: Tensor, bias: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Attention among the N = window² tokens of each window: [B,H,W,3C] → [B,H,W,C].

    `bias` [heads,N,N] is added to the scores. The result equals these steps: pad the map with zeros to whole
    windows, roll it by `shift`, attend within windows under `shift_mask`, roll back and cut. Here each
    program reads the tokens of its window where they lie, so that none of those copies is made, and the mask
    is computed from positions.

    Method: the windows of Liu et al., "Swin Transformer" (ICCV 2021). All scores of a query fit on the chip,
    so that the softmax needs no running maximum.
    """
    batch, height, width, channels = qkv.shape
    channels //= 3
    windows = triton.cdiv(height, window) * triton.cdiv(width, window)
    tokens = window**2
    # 144 tokens are held as 128 + 16: one block of 256, the next power of two, would be computed in vain by half.
    block = triton.next_power_of_2(tokens)
    half = block // 2
    first, rest = (half, LEAST) if half > LEAST and tokens <= half + LEAST else (block, 0)
    out = qkv.new_empty(batch, height, width, channels)
    _window_attention[(triton.cdiv(tokens, QUERIES) * heads, windows, batch)](
        qkv.contiguous(),
        bias.contiguous(),
        out,
        height,
        width,
        (channels // heads) ** -0.5,
        HEADS=heads,
        DEPTH=channels // heads,
        WINDOW=window,
        SHIFT=shift,
        QUERIES=QUERIES,
        FIRST=first,
        REST=rest,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _place_of(token, row, column, height, width, WINDOW: tl.constexpr, SHIFT: tl.constexpr):
    """Return where a token of a window lies on the map, whether it is real, and the region it may attend to."""
    high, wide = tl.cdiv(height, WINDOW) * WINDOW, tl.cdiv(width, WINDOW) * WINDOW
    rolled_y, rolled_x = row * WINDOW + token // WINDOW, column * WINDOW + token % WINDOW
    y, x = (rolled_y + SHIFT) % high, (rolled_x + SHIFT) % wide
    real = (token < WINDOW * WINDOW) & (y < height) & (x < width)
    region_y = (rolled_y >= high - WINDOW).to(tl.int32) + (rolled_y >= high - SHIFT).to(tl.int32)
    region_x = (rolled_x >= wide - WINDOW).to(tl.int32) + (rolled_x >= wide - SHIFT).to(tl.int32)
    return y * width + x, real, 3 * region_y + region_x


@triton.jit
def _scores(
    q,
    query,
    q_region,
    token,
    k_pointer,
    bias_pointer,
    row,
    column,
    height,
    width,
    scale,
    CHANNELS: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
):
    """Return the scores of the queries for some tokens, in the base of `exp2`, and those tokens' values."""
    tokens: tl.constexpr = WINDOW * WINDOW
    place, real, region = _place_of(token, row, column, height, width, WINDOW, SHIFT)
    k_pointer += place[:, None] * (3 * CHANNELS)
    k = tl.load(k_pointer, mask=real[:, None], other=0.0)
    v = tl.load(k_pointer + CHANNELS, mask=real[:, None], other=0.0)
    bias = tl.load(
        bias_pointer + query[:, None] * tokens + token[None, :],
        mask=(query < tokens)[:, None] & (token < tokens)[None, :],
        other=0.0,
    )
    scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale + bias.to(tl.float32)
    if SHIFT:
        scores += tl.where(q_region[:, None] != region[None, :], -100.0, 0.0)
    return tl.where((token < tokens)[None, :], scores * 1.4426950408889634, float("-inf")), v


@triton.jit
def _window_attention(
    qkv_pointer,
    bias_pointer,
    out_pointer,
    height,
    width,
    scale,
    HEADS: tl.constexpr,
    DEPTH: tl.constexpr,
    WINDOW: tl.constexpr,
    SHIFT: tl.constexpr,
    QUERIES: tl.constexpr,
    FIRST: tl.constexpr,
    REST: tl.constexpr,
):
    CHANNELS: tl.constexpr = HEADS * DEPTH
    head = tl.program_id(0) % HEADS
    query = tl.program_id(0) // HEADS * QUERIES + tl.arange(0, QUERIES)
    columns = tl.cdiv(width, WINDOW)
    row, column = tl.program_id(1) // columns, tl.program_id(1) % columns
    image = tl.program_id(2).to(tl.int64) * height * width
    channel = head * DEPTH + tl.arange(0, DEPTH)
    bias_pointer += head * (WINDOW * WINDOW * WINDOW * WINDOW)
    qkv_pointer += image * (3 * CHANNELS) + channel[None, :]
    k_pointer = qkv_pointer + CHANNELS

    place, real, region = _place_of(query, row, column, height, width, WINDOW, SHIFT)
    q = tl.load(qkv_pointer + place[:, None] * (3 * CHANNELS), mask=real[:, None], other=0.0)
    token = tl.arange(0, FIRST)
    scores, v = _scores(
        q, query, region, token, k_pointer, bias_pointer, row, column, height, width, scale, CHANNELS, WINDOW, SHIFT
    )  # fmt: skip
    highest = tl.max(scores, axis=1)
    if REST:
        rest = FIRST + tl.arange(0, REST)
        rest_scores, rest_v = _scores(
            q, query, region, rest, k_pointer, bias_pointer, row, column, height, width, scale, CHANNELS, WINDOW, SHIFT
        )  # fmt: skip
        highest = tl.maximum(highest, tl.max(rest_scores, axis=1))
    scores = tl.exp2(scores - highest[:, None])
    total = tl.sum(scores, axis=1)
    result = tl.dot(scores.to(v.dtype), v, input_precision="ieee")
    if REST:
        rest_scores = tl.exp2(rest_scores - highest[:, None])
        total += tl.sum(rest_scores, axis=1)
        result = tl.dot(rest_scores.to(rest_v.dtype), rest_v, result, input_precision="ieee")
    tl.store(
        out_pointer + (image + place)[:, None] * CHANNELS + channel[None, :],
        (result / total[:, None]).to(out_pointer.dtype.element_ty),
        mask=real[:, None],
    )
