"""Window attention as an ONNX graph is fastest on a CPU: whole rows gathered, and one operator for the rest.

In ONNX Runtime, padding, rolling and cutting into windows are several copies each. Here, the place of each token is a
constant of the graph, and one gather does all of it. ONNX's own `Attention` computes the scores, their bias and the
softmax, and reads each head where it is instead of transposing it first. Windows with the same mask share an operator,
so that their bias is small: ONNX Runtime adds up the constants when it opens the graph, and keeps the sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import product

import torch
from torch import Tensor, nn


class _Form:
    """`spelled_out`: products and a softmax are written in place of the operator `Attention`."""

    spelled_out = False


@contextmanager
def spelled_out() -> Iterator[None]:
    """Write products and a softmax in place of the operator `Attention` within this block.

    For libraries on a GPU: not all of them have that operator, and it needs a version of ONNX for whose `GridSample`
    ONNX Runtime has no CUDA kernel.
    """
    _Form.spelled_out = True
    try:
        yield
    finally:
        _Form.spelled_out = False


def window_attention(x: Tensor, qkv: nn.Linear, bias: Tensor, heads: int, window: int, shift: int) -> Tensor:
    """Return the attention within windows, without the last linear layer: float32 [B,H,W,C] → the same shape.

    `bias` is [heads,N,N]. Keys and values must have no bias in `qkv`. Only for tracing by `torch.onnx.export`: run by
    torch itself, the result is zeros.
    """
    batch, height, width, channels = x.shape
    tokens = x.flatten(1, 2)
    if height % window or width % window:  # behind the tokens, zeros for the places that are padded
        tokens = torch.cat((tokens, x.new_zeros(batch, 1, channels)), dim=1)
    rows = qkv(tokens).unflatten(2, (3, channels)).flatten(1, 2)  # of each token its query, key and value

    parts, order = [], []
    for ends in ((False, False), (False, True), (True, False), (True, True)):
        places = places_of_windows(height, width, window, shift, ends)
        if not places:
            continue
        q, k, v = (
            rows.index_select(1, torch.tensor([3 * place + part for place in places]))
            .unflatten(1, (-1, window**2))
            .flatten(0, 1)
            for part in range(3)
        )
        masked = bias + torch.tensor(mask(window, shift, ends)) if any(ends) else bias
        parts.append(attention(q, k, v, masked[None], heads).unflatten(0, (batch, -1)).flatten(1, 2))
        order += places
    back = torch.tensor(sorted(range(len(order)), key=order.__getitem__)[: height * width])
    windows = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
    out: Tensor = windows.index_select(1, back).unflatten(1, (height, width))
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, heads: int) -> Tensor:
    """Return ONNX's `Attention` of [B,N,C] each, with `bias` [1,heads,N,N] on the scores: [B,N,C]."""
    if _Form.spelled_out:
        q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in (q, k, v))
        # Scaled before the product, which in float16 could overflow.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3) + bias.to(q.dtype)
        mixed: Tensor = scores.softmax(dim=-1) @ v
        return mixed.transpose(1, 2).flatten(2)
    return torch.onnx.ops.symbolic(
        "Attention",
        (q, k, v, bias),
        {"q_num_heads": heads, "kv_num_heads": heads},
        dtype=q.dtype,
        shape=q.shape,
        version=23,
    )


def places_of_windows(height: int, width: int, window: int, shift: int, ends: tuple[bool, bool]) -> list[int]:
    """Return the token at each place of some windows of the rolled map, window by window.

    Tokens are numbered row by row; height·width stands for padding. With a shift, `ends` selects the windows by whether
    they are in the last row, and whether they are in the last column: only those need a mask. Without one, all windows
    are in (False, False).
    """
    down, across = height + -height % window, width + -width % window
    places = []
    for top, left in product(range(0, down, window), range(0, across, window)):
        if ends != (bool(shift) and top + window == down, bool(shift) and left + window == across):
            continue
        for row, column in product(range(top, top + window), range(left, left + window)):
            y, x = (row + shift) % down, (column + shift) % across
            places.append(y * width + x if y < height and x < width else height * width)
    return places


@cache
def mask(window: int, shift: int, ends: tuple[bool, bool]) -> list[list[float]]:
    """Return the mask [N,N] of the windows at these `ends`: 0 where two tokens may attend, −100 where not.

    Those windows are divided where the map's end meets its beginning, as in `shift_mask`.
    """
    seam = window - shift
    regions = [
        (ends[0] and row >= seam, ends[1] and column >= seam)
        for row, column in product(range(window), repeat=2)
    ]
    return [[0.0 if region == other else -100.0 for other in regions] for region in regions]
