"""The networks, and the checkpoints that fill them."""

from torch import nn

from models import catalog
from models.isnet import ISNet


def build_network(checkpoint: str) -> nn.Module:
    """Build the plain network of a checkpoint of the catalogue, with untrained weights.

    The network loads the checkpoint's published keys strictly. Its `forward` takes pixels, float
    [B,3,H,W], normalised as the checkpoint says, and gives logits [B,1,H,W], whose sigmoid is the mask.

    Raises:
        UnknownCheckpoint: no checkpoint of that name is in the catalogue.

    """
    return NETWORKS[catalog.find(checkpoint).network]()


NETWORKS: dict[str, type[nn.Module]] = {"isnet": ISNet}
