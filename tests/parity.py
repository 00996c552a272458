"""Deterministic stand-in weights, so that two implementations of one network can be compared exactly.

`fill(name, shape)` depends only on the tensor's name and shape in the published checkpoint, so the same weights can be
rebuilt anywhere. The scales keep activations in a healthy range through all layers.
"""

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cutout.models import build_network
from cutout.models.swin import SIZES, SwinSize, relative_position_index

# Not from conftest, which needs the service's libraries: benchmarks on a host with a GPU import this too.
DATA = Path(__file__).parent / "data"


def fill(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the float32 stand-in for the tensor `name` of `shape` (num_batches_tracked is not filled)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "running_var":
        value = rng.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean":
        value = rng.normal(0.0, 0.1, shape)
    elif leaf == "relative_position_bias_table":
        value = rng.normal(0.0, 0.5, shape)
    elif leaf == "bias":
        value = rng.normal(0.0, 0.1, shape)
    elif len(shape) == 1:  # the scale of a BatchNorm or a LayerNorm
        value = rng.uniform(0.7, 1.3, shape)
    else:
        fan_in = int(np.prod(shape[1:]))
        value = rng.normal(0.0, (1.6 / fan_in) ** 0.5, shape)
        if "offset_conv" in name:  # moves the sampling points of a deformable convolution by about a pixel
            value = value * 0.7
    return value.astype(np.float32)


def image(size: int, seed: int = 7, batch: int = 1) -> npt.NDArray[np.float32]:
    """Return a smooth pseudo-photo, float32 [batch, 3, size, size], already normalised (mean 0, std about 1)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(np.float64) / size
    planes = np.zeros((batch, 3, size, size))
    for b in range(batch):
        for c in range(3):
            for _ in range(12):
                fx, fy = rng.uniform(-9, 9, 2)
                planes[b, c] += rng.normal() * np.sin(2 * np.pi * (fx * x + fy * y) + rng.uniform(0, 6.28))
    planes /= planes.std(axis=(2, 3), keepdims=True)
    return planes.astype(np.float32)


@cache
def published_state(keys: str) -> dict[str, torch.Tensor]:
    """Return the state of `filled_state`, made once and kept: for networks of up to 200 MB."""
    return filled_state(keys)


@torch.inference_mode(mode=False)  # The tensors are used outside inference mode too.
def filled_state(keys: str) -> dict[str, torch.Tensor]:
    """Return stand-in weights under the names and shapes of a published state dict, `keys`.keys.tsv."""
    state = {}
    for line in (DATA / f"{keys}.keys.tsv").read_text().splitlines():
        name, _, shape_text = line.partition("\t")
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(0)
            continue
        shape = tuple(int(size) for size in shape_text.split("x"))
        if name.endswith("relative_position_index"):
            state[name] = relative_position_index(WINDOWS[shape[0]])
        else:
            state[name] = torch.from_numpy(fill(name, shape))
    return state


# A narrow FeyNobg, so that its reference is computed in a second: the depths are those of the published one.
NARROW = SwinSize(width=24, depths=(2, 2, 18, 2), heads=(1, 2, 4, 8), window=3)
FEYNOBG = "feynobg_reference.npz"


@cache
@torch.inference_mode(mode=False)
def narrow_feynobg() -> dict[str, torch.Tensor]:
    """Return stand-in weights for FeyNobg on the backbone `NARROW`, under the names that it is published with."""
    with np.load(DATA / FEYNOBG) as reference:
        shapes = dict(zip(reference["names"].tolist(), reference["shapes"].tolist(), strict=True))
    return {
        name: torch.from_numpy(fill(name, tuple(map(int, shape.split("x"))))) if shape else torch.tensor(0)
        for name, shape in shapes.items()
    }


WINDOWS = {size.window**2: size.window for size in SIZES.values()}


def standin(checkpoint: str, state: dict[str, torch.Tensor]) -> nn.Module:
    """Build a checkpoint's plain network on stand-in weights, loaded strictly."""
    with torch.device("meta"):
        network = build_network(checkpoint)
    network.load_state_dict(state, strict=True, assign=True)
    return network.eval().requires_grad_(False)


def mask_levels(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the mean difference of two masks, given as logits, in units of 1/255."""
    return 255 * float((found.float().sigmoid() - expected.float().sigmoid()).abs().mean())
