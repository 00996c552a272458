"""Convolution, normalisation and ReLU, in one kernel of cuDNN where that is possible."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_relu(conv: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Apply `conv`, `norm` and ReLU: [B,inputs,H,W] → [B,outputs,H,W].

    On a GPU torch would run three kernels: the convolution, the addition of its bias, and the ReLU. Once the norm is
    folded into the convolution, and is an `Identity`, cuDNN does all in one.
    """
    if x.is_cuda and x.dtype == torch.float16 and isinstance(norm, nn.Identity) and conv.bias is not None:
        assert not isinstance(conv.padding, str)
        return torch.cudnn_convolution_relu(
            x, conv.weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups
        )
    return F.relu(norm(conv(x)), inplace=True)
