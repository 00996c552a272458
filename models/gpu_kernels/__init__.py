"""Triton kernels for what the networks do between their matrix products on a GPU.

The networks call them wherever `usable` is true and ordinary operators elsewhere; both give the same result up to
rounding. On an H100 ordinary operators take over four times as long for BiRefNet, most of it for copies: padding,
rolling and cutting windows, gathering what deformable convolutions sample, resizing and joining maps.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

# Triton comes with torch for NVIDIA GPUs; torch for CPUs has none.
try:
    from cutout.models.gpu_kernels.attention import window_attention as window_attention
    from cutout.models.gpu_kernels.deformable import deform_branch as deform_branch
    from cutout.models.gpu_kernels.normalisation import add_layer_norm as add_layer_norm
    from cutout.models.gpu_kernels.normalisation import layer_norm as layer_norm
    from cutout.models.gpu_kernels.resampling import halve as halve
    from cutout.models.gpu_kernels.resampling import join as join
    from cutout.models.gpu_kernels.resampling import resize as resize
    from cutout.models.gpu_kernels.resampling import resize_add as resize_add
except ImportError:
    INSTALLED = False
else:
    INSTALLED = True


class _State:
    """`on`: kernels may be used in this process; `everywhere`: also on the CPU, in Triton's interpreter."""

    on = INSTALLED
    everywhere = False


def usable(x: Tensor) -> bool:
    """Return whether the kernels may be used for `x`: it is on a GPU, in half precision, and they are not switched off.

    In float32 the tiles of `deform_branch` would be larger than most GPUs' shared memory.
    """
    return _State.on and (_State.everywhere or (x.is_cuda and x.dtype != torch.float32))


def are_on() -> bool:
    """Return whether this process has the kernels and has not switched them off."""
    return _State.on


def switch_off() -> None:
    """Use ordinary operators from now on, in this process."""
    _State.on = False


@contextmanager
def only(*, on: bool, everywhere: bool = False) -> Iterator[None]:
    """Use the kernels or not within this block; `everywhere` includes the CPU, for tests."""
    before = _State.on, _State.everywhere
    _State.on, _State.everywhere = on and INSTALLED, everywhere
    try:
        yield
    finally:
        _State.on, _State.everywhere = before
