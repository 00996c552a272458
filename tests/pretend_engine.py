"""The real engine on a pretended GPU, in half precision and with captured graphs, with a network that finds red discs."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cutout.inference.backends.runners import Serving, TorchRunner
from cutout.inference.engine import Engine
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import find
from tests.fakes import BLUE, photo_with_disc
from tests.pretend_gpu import Call, pretended_gpu

RED = (200, 60, 50)
SOFT = 5  # pixels of the mask over which an edge is spread
RADIUS = 0.15  # of the photo's shorter side: small enough for a second look


class FindsRed(nn.Module):
    """A network of one convolution: pixels of `isnet-general` [B,3,H,W] → logits [B,1,H,W], high where they are red."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 1).requires_grad_(False)
        steepness, middle = 20 * 255 / (RED[0] - BLUE[0]), (RED[0] + BLUE[0]) / 2 / 255 - 0.5
        self.conv.weight[:] = torch.tensor([steepness, 0, 0])[:, None, None]
        self.conv.bias.fill_(-steepness * middle)  # type: ignore[union-attr]

    def forward(self, pixels: Tensor) -> Tensor:
        out: Tensor = self.conv(F.avg_pool2d(pixels, SOFT, 1, SOFT // 2))
        return out


@contextmanager
def pretended_engine(
    input_size: int, note: Callable[[Call], None] = lambda call: None, network: nn.Module | None = None
) -> Iterator[Engine]:
    """Open an engine that serves all tiers on a pretended GPU; `note` gets every operation of its threads."""
    network = network or FindsRed()
    checkpoint = replace(find("isnet-general"), input_size=input_size)
    with pretended_gpu(note=note) as gpu:
        gpu.watch(network, torch.float16)
        runner = TorchRunner(network, torch.device("cuda"), dtype=torch.float16, batch_sizes=(1, 2))
        with Engine({tier: Serving(Choice(tier, checkpoint, ()), runner) for tier in Tier}) as engine:
            engine.warm_up()
            yield engine


@cache
def photo(height: int, width: int) -> bytes:
    """Encode a photo of a red disc."""
    out = io.BytesIO()
    rgb = photo_with_disc(height, width, RADIUS * min(height, width), RED)[0].rgb
    Image.fromarray(rgb).save(out, "PNG", compress_level=1)
    return out.getvalue()
