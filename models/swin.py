"""The Swin transformer, BiRefNet's backbone.

Method: Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (ICCV
2021). Module names follow the published checkpoints, so that their keys load strictly.

Tokens are kept in image layout, [B,H,W,C], throughout. Shapes in the comments below are for a 1024×1024
input to Swin-L. Any size works: tokens are padded to whole windows where necessary.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.models import gpu_kernels
from cutout.models.catalog import Depths


@dataclass(frozen=True)
class SwinSize:
    """`width`: channels of the first stage, doubled by each later one; `heads`, `depths`: one per stage."""

    width: int
    depths: Depths
    heads: tuple[int, int, int, int]
    window: int

    @property
    def channels(self) -> tuple[int, int, int, int]:
        """Return the channels of the backbone's four output maps."""
        return (self.width, 2 * self.width, 4 * self.width, 8 * self.width)


# The names are those of BiRefNet's own configuration.
SIZES = {
    "swin_v1_t": SwinSize(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), window=7),
    "swin_v1_l": SwinSize(width=192, depths=(2, 2, 18, 2), heads=(6, 12, 24, 48), window=12),
}


class SwinTransformer(nn.Module):
    """Backbone: pixels float [B,3,H,W] → four maps, finest first: [B,C,H/4,W/4] … [B,8C,H/32,W/32], rounded up.

    For Swin-L at 1024×1024: [B,192,256,256], [B,384,128,128], [B,768,64,64], [B,1536,32,32].
    """

    def __init__(self, size: SwinSize) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(size.width)
        self.layers = nn.ModuleList(
            Stage(channels, depth, heads, size.window, last=channels == size.channels[-1])
            for channels, depth, heads in zip(size.channels, size.depths, size.heads, strict=True)
        )
        for index, channels in enumerate(size.channels):
            self.add_module(f"norm{index}", nn.LayerNorm(channels))

    def forward(self, pixels: Tensor) -> list[Tensor]:
        maps = []
        x = self.patch_embed(pixels)
        for index, stage in enumerate(self.layers):
            x = stage(x)
            norm = self.get_submodule(f"norm{index}")
            assert isinstance(norm, nn.LayerNorm)
            maps.append(normalised(x, norm).permute(0, 3, 1, 2))
            x = stage.get_submodule("downsample")(x)
        return maps


class PatchEmbed(nn.Module):
    """Embedding of each 4×4 pixels as one token: [B,3,H,W] → [B,⌈H/4⌉,⌈W/4⌉,C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=4, stride=4)
        self.norm = nn.LayerNorm(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[2:]
        pixels = F.pad(pixels, (0, -width % 4, 0, -height % 4))
        return normalised(self.proj(pixels).permute(0, 2, 3, 1), self.norm)


class Stage(nn.Module):
    """Blocks at one resolution, every second one with shifted windows: [B,H,W,C] → the same shape.

    `downsample` produces the input of the next stage; in the last stage it is the identity.
    """

    def __init__(self, channels: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2
        self.blocks = nn.ModuleList(
            Block(channels, heads, window, shift=self.shift if index % 2 else 0) for index in range(depth)
        )
        self.downsample = nn.Identity() if last else PatchMerging(channels)

    def forward(self, x: Tensor) -> Tensor:
        # The kernel computes the mask from positions.
        mask = x.new_empty(0) if gpu_kernels.usable(x) else shift_mask(x, self.window, self.shift)
        for block in self.blocks:
            x = block(x, mask)
        return x


class Block(nn.Module):
    """Attention within windows, then an MLP for each token, both residual: [B,H,W,C] → the same shape."""

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn: nn.Module = WindowAttention(channels, heads, window, shift)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x, normed = added_normalised(x, self.attn(normalised(x, self.norm1), mask), self.norm2)
        out: Tensor = x + self.mlp(normed)
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them, four times as wide inside: [B,H,W,C] → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and x.dtype == torch.float16:
            # cuBLAS computes GELU by tanh, within the product; the difference is less than float16's rounding.
            rows = torch._addmm_activation(self.fc1.bias, x.flatten(0, -2), self.fc1.weight.T, use_gelu=True)
            return self.fc2(rows).view(x.shape)  # type: ignore[no-any-return]
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class WindowAttention(nn.Module):
    """Attention among the N = window² tokens of each window: [B,H,W,C] → the same shape.

    The tokens are padded with zeros to whole windows. With a shift, the map is first rolled up and left by
    that much, so that windows cross the borders of the unshifted ones. `mask`, from `shift_mask`, prevents
    attention between tokens that are neighbours only because of the roll.
    """

    def __init__(self, channels: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("relative_position_index", relative_position_index(window))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = pad_to_windows(x, self.window)
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))

        windows = to_windows(x, self.window)  # [B·nW,N,C]
        q, k, v = split_heads(self.qkv(windows), self.heads)  # [B·nW,heads,N,C/heads] each
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + self.position_bias()
        if self.shift:
            scores = scores.unflatten(0, (-1, len(mask))) + mask[:, None]
            scores = scores.flatten(0, 1)
        windows = self.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).flatten(2))

        x = from_windows(windows, self.window, x.shape[1], x.shape[2])
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, :height, :width]

    def position_bias(self) -> Tensor:
        """Return each head's bias on the scores by the relative position of two tokens: [heads,N,N]."""
        index = self.get_buffer("relative_position_index")
        return self.relative_position_bias_table[index].permute(2, 0, 1)


class PatchMerging(nn.Module):
    """Merge each 2×2 tokens into one with twice the channels: [B,H,W,C] → [B,⌈H/2⌉,⌈W/2⌉,2C]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        x = torch.cat((x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]), dim=-1)
        out: Tensor = self.reduction(normalised(x, self.norm))
        return out


def normalised(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Normalise the channels of each token: [B,H,W,C] → the same shape."""
    if gpu_kernels.usable(x):
        return gpu_kernels.layer_norm(x, norm)
    out: Tensor = norm(x)
    return out


def added_normalised(x: Tensor, delta: Tensor, norm: nn.LayerNorm) -> tuple[Tensor, Tensor]:
    """Return the sum of two maps, and its normalisation: both [B,H,W,C]."""
    if gpu_kernels.usable(x):
        return gpu_kernels.add_layer_norm(x, delta, norm)
    x = x + delta
    return x, norm(x)


def pad_to_windows(x: Tensor, window: int) -> Tensor:
    """Pad [B,H,W,C] with zeros at the bottom and right to multiples of `window`."""
    height, width = x.shape[1:3]
    return F.pad(x, (0, 0, 0, -width % window, 0, -height % window))


def to_windows(x: Tensor, window: int) -> Tensor:
    """Split into whole windows of N = window² tokens, row by row: [B,H,W,C] → [B·nW,N,C]."""
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # [B,rows,window,columns,window,C]
    windows: Tensor = x.transpose(2, 3).flatten(3, 4).flatten(0, 2)
    return windows


def from_windows(windows: Tensor, window: int, height: int, width: int) -> Tensor:
    """Reverse `to_windows`: [B·nW,N,C] → [B,height,width,C]."""
    x = windows.unflatten(1, (window, window)).unflatten(0, (-1, height // window, width // window))
    picture: Tensor = x.transpose(2, 3).flatten(3, 4).flatten(1, 2)
    return picture


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split […,N,3C] into queries, keys and values, […,heads,N,C/heads] each."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).movedim(-3, 0).transpose(-3, -2)
    return q, k, v


def relative_position_index(window: int) -> Tensor:
    """Return the row of the bias table for each pair of tokens in a window: int64 [N,N]."""
    axis = torch.arange(window)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    y, x = y.flatten(), x.flatten()
    down, across = (y[:, None] - y) + window - 1, (x[:, None] - x) + window - 1
    return down * (2 * window - 1) + across


def shift_mask(x: Tensor, window: int, shift: int) -> Tensor:
    """Return the attention mask of a rolled map: 0 where two tokens may attend, −100 where not.

    [B,H,W,C] → [nW,N,N]. The rolled map, padded to whole windows, is divided along each axis before the
    last window and at the seam within it; tokens attend only to tokens of their own region.
    """

    def regions(length: int) -> Tensor:
        padded = length + -length % window
        place = torch.arange(padded, device=x.device)
        return (place >= padded - window).long() + (place >= padded - shift).long()

    height, width = x.shape[1:3]
    picture = 3 * regions(height)[:, None] + regions(width)
    by_window = to_windows(picture[None, :, :, None], window).squeeze(-1)  # [nW,N]
    apart = by_window[:, :, None] != by_window[:, None, :]
    return apart.to(x.dtype) * -100
