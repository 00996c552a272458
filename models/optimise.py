"""Exact rewrites that change a network's time and memory, not its answer beyond float rounding."""

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.isnet import ConvNormReLU, ISNet


def optimise(network: nn.Module) -> nn.Module:
    """Rewrite `network` in place for inference and return it, in eval mode and without gradients.

    Every BatchNorm is folded into the convolution before it, and what serves training only is dropped.
    The rewritten network no longer takes published state dicts.
    """
    network.eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, ConvNormReLU) and isinstance(module.bn_s1, nn.BatchNorm2d):
            module.conv_s1 = fuse_conv_bn_eval(module.conv_s1, module.bn_s1)
            module.bn_s1 = nn.Identity()
    if isinstance(network, ISNet):
        for level in range(2, 7):
            delattr(network, f"side{level}")
    return network
