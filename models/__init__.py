"""The networks and the catalogue of their checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutout.models import catalog

if TYPE_CHECKING:
    from torch import nn

    from cutout.models.catalog import Checkpoint


def build_network(checkpoint: str | Checkpoint) -> nn.Module:
    """Build the plain network of a checkpoint, or of the one of that name in the catalogue, with untrained weights.

    The network loads the checkpoint's published keys strictly. Its `forward` takes pixels, float
    [B,3,H,W], normalised as the checkpoint specifies, and returns logits [B,1,H,W], whose sigmoid is the
    mask.

    Raises:
        UnknownCheckpoint: no checkpoint of that name is in the catalogue.

    """
    # Imported here so that reading the catalogue does not import torch.
    from cutout.models.birefnet import BiRefNet
    from cutout.models.isnet import ISNet
    from cutout.models.u2net import U2NetP

    entry = catalog.find(checkpoint) if isinstance(checkpoint, str) else checkpoint
    if entry.network == "isnet":
        return ISNet()
    if entry.network == "u2net":
        return U2NetP()
    return BiRefNet(entry.backbone, entry.patch_order, entry.depths)
