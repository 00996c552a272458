"""Checks of weights: the files themselves, and the order in which BiRefNet stacks patches of the photo."""

from itertools import combinations
from pathlib import Path
from typing import get_args

import safetensors
import torch
from torch import Tensor, nn

from cutout.inference.errors import ModelUnavailable
from cutout.inference.selftest.checklist import REPORT_IT, Fact, Failed, Skipped
from cutout.inference.weights.store import ModelsFolder
from cutout.models import build_network
from cutout.models.birefnet import BiRefNet, Decoder, SimpleConvs
from cutout.models.catalog import Checkpoint, PatchOrder
from cutout.models.state_dicts import renamed_part

ORDERS: tuple[PatchOrder, ...] = get_args(PatchOrder)
# Weights of a pixel's three colours are correlated: the colours themselves are, in almost every photo. By this much and
# this many times more than in the other order, they say clearly which order they were trained with.
CLEAR, TIMES = 0.1, 3.0
# The layers behind the two finest grids of patches.
FIRST_LAYERS = ("decoder.ipt_blk2.", "decoder.ipt_blk3.")


def file_is_whole(folder: ModelsFolder, checkpoint: Checkpoint) -> Fact:
    """Check the file of a checkpoint against its checksum.

    Raises:
        Failed: it was changed, or it cannot be read.

    """
    again = f"Run: {checkpoint.install_command}"
    try:
        digest = folder.verify(checkpoint)
    except ModelUnavailable as error:
        raise Failed(str(error).partition("; run:")[0], again) from error
    except OSError as error:
        raise Failed(f"{folder.file(checkpoint)} cannot be read: {error.strerror}", again) from error
    figures = {"sha256": digest}
    if folder.expected_sha256(checkpoint) is None:
        advice = f"To get one with a checksum, remove it and run: {checkpoint.install_command}"
        return Fact("a file placed by hand, without a checksum to compare it with", figures, advice)
    return Fact("its checksum is the expected one", figures)


def patches_are_in_order() -> Fact:
    """Check that BiRefNet stacks patches as published, in both orders: each channel is the pixel that it should be.

    Raises:
        Failed: a channel is another pixel.

    """
    rows, columns, high, wide = 2, 3, 4, 5  # a grid of 2×3 patches of 4×5 pixels
    pixels = torch.arange(3 * rows * high * columns * wide, dtype=torch.float32)
    pixels = pixels.reshape(1, 3, rows * high, columns * wide)
    for order in ORDERS:
        with torch.device("meta"):
            decoder = Decoder([16, 32, 64, 128], order)
        found = decoder.patches(pixels, torch.zeros(1, 1, high, wide))
        for colour in range(3):
            for row in range(rows):
                for column in range(columns):
                    by_place = (column * rows + row) * 3 + colour
                    by_colour = (colour * rows + row) * columns + column
                    channel = by_place if order == "wg hg c" else by_colour
                    expected = pixels[:, colour, row * high : (row + 1) * high]
                    if not torch.equal(found[:, channel], expected[..., column * wide : (column + 1) * wide]):
                        raise Failed(f"patches in the order {order!r} are stacked wrongly", REPORT_IT)
    return Fact("patches are stacked as published, in both orders")


def order_fits_weights(network: nn.Module, checkpoint: Checkpoint) -> Fact:
    """Check that trained weights of BiRefNet fit the order of patches in the catalogue.

    Of the first layers behind the patches, the weights of one pixel's three colours are correlated if they are read in the
    order of the training, and those of far pixels if they are read in the other. Random weights show neither.

    Raises:
        Failed: the weights were trained with the other order.
        Skipped: the network has no patches, or its weights do not tell.

    """
    if not isinstance(network, BiRefNet):
        raise Skipped("this network has no patches")
    if not checkpoint.order_shows:
        raise Skipped("these weights began as others, maybe of the other order of patches: they do not tell")
    found = {order: colour_correlation(network, order) for order in ORDERS}
    own, other = (found[order] for order in sorted(found, key=lambda order: order != checkpoint.patch_order))
    told = ", ".join(f"{order!r} {value:.2f}" for order, value in found.items())
    if other > CLEAR and other > TIMES * abs(own):
        advice = (
            "Update Cutout, or use another checkpoint; if a newer version says the same, report it with the JSON file of"
            " this test."
        )
        if checkpoint.like is not None:
            (order,) = set(ORDERS) - {checkpoint.patch_order}
            advice = f'Add them again with --replace and --patch-order "{order}".'
        raise Failed(
            f"the weights were trained with the other order of patches than {checkpoint.patch_order!r}"
            f" (correlation of colours: {told})",
            f"The masks of {checkpoint.name} will look plausible and be wrong. {advice}",
            {"correlation": found},
        )
    if not (own > CLEAR and own > TIMES * abs(other)):
        raise Skipped(f"these weights do not tell the order of patches (correlation of colours: {told})")
    return Fact(f"the weights fit the order {checkpoint.patch_order!r}", {"correlation": found})


def order_fits_file(file: Path, checkpoint: Checkpoint) -> Fact:
    """Do the same for a safetensors file, of which little is read.

    Raises:
        Failed, Skipped: see `order_fits_weights`.

    """
    with torch.device("meta"):
        network = build_network(checkpoint)
    if isinstance(network, BiRefNet):
        with safetensors.safe_open(file, framework="pt") as tensors:
            names = {renamed_part(name): name for name in tensors.keys()}  # noqa: SIM118 - it is no dict
            read = {
                name: tensors.get_tensor(names[name])
                for name in network.state_dict()
                if name.startswith(FIRST_LAYERS)
            }
        network.load_state_dict(read, strict=False, assign=True)
    return order_fits_weights(network, checkpoint)


def colour_correlation(network: BiRefNet, order: PatchOrder) -> float:
    """Return the mean correlation of the weights of one pixel's colours, read in this order.

    The two finest grids are used, of 4×4 and 8×8 patches: pixels there that are not the same are far apart.
    """
    blocks = (network.decoder.ipt_blk2, network.decoder.ipt_blk3)
    values = [_correlation(block, order) for block in blocks]
    return sum(values) / len(values)


def _correlation(block: SimpleConvs, order: PatchOrder) -> float:
    weight: Tensor = block.conv1.weight.detach().float()  # [64,3·P²,3,3]
    by_colour = (
        weight.unflatten(1, (-1, 3)).transpose(1, 2) if order == "wg hg c" else weight.unflatten(1, (3, -1))
    )
    colours = by_colour.transpose(0, 1).flatten(1)  # [3,…]
    table = torch.corrcoef(colours)
    return float(torch.stack([table[a, b] for a, b in combinations(range(3), 2)]).mean())
