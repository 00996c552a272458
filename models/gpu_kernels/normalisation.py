"""Layer normalisation of many short rows, with the residual addition before it, in one Triton kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

# Values for each program: several rows, so that a row of 192 channels does not take a program of its own.
VALUES = 4096


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the last axis: […,C] → […,C]."""
    _, out = _run(x, None, norm)
    return out


def add_layer_norm(x: Tensor, delta: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return `x + delta` and its normalisation along the last axis: both […,C]."""
    return _run(x, delta, norm)


def _run(x: Tensor, delta: Tensor | None, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    channels = x.shape[-1]
    x = x.contiguous()
    delta = None if delta is None else delta.contiguous()
    total = x if delta is None else torch.empty_like(x)
    out = torch.empty_like(x)
    count = x.numel() // channels
    block = triton.next_power_of_2(channels)
    rows = max(1, VALUES // block)
    _layer_norm[(triton.cdiv(count, rows),)](
        x,
        delta,
        norm.weight,
        norm.bias,
        total,
        out,
        count,
        norm.eps,
        CHANNELS=channels,
        ROWS=rows,
        BLOCK=block,
        ADD=delta is not None,
        num_warps=4 if rows * block <= VALUES else 8,
    )
    return total, out


@triton.jit
def _layer_norm(
    x_pointer,
    delta_pointer,
    weight_pointer,
    bias_pointer,
    total_pointer,
    out_pointer,
    count,
    eps,
    CHANNELS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK)
    real = channel < CHANNELS
    mask = (row < count)[:, None] & real[None, :]
    place = row[:, None] * CHANNELS + channel[None, :]
    x = tl.load(x_pointer + place, mask=mask, other=0.0)
    if ADD:
        # Rounded as if the sum had been stored and read again, as without this kernel.
        x = (x.to(tl.float32) + tl.load(delta_pointer + place, mask=mask, other=0.0).to(tl.float32)).to(
            x.dtype
        )
        tl.store(total_pointer + place, x, mask=mask)
    x = x.to(tl.float32)
    mean = tl.sum(x, axis=1) / CHANNELS
    centred = tl.where(real[None, :], x - mean[:, None], 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, axis=1) / CHANNELS + eps)
    weight = tl.load(weight_pointer + channel, mask=real, other=0.0).to(tl.float32)
    bias = tl.load(bias_pointer + channel, mask=real, other=0.0).to(tl.float32)
    out = centred * scale[:, None] * weight[None, :] + bias[None, :]
    tl.store(out_pointer + place, out.to(out_pointer.dtype.element_ty), mask=mask)
