"""Small networks for the self-test, and what may be wrong with them."""

import io
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from cutout.inference.backends.runners import Precision, Runner, TorchRunner
from cutout.inference.selftest import samples
from cutout.inference.selftest.subjects import Subject
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import find

SMALL = replace(find("isnet-general"), input_size=64)
CPU = torch.device("cpu")


class RedFinder(nn.Module):
    """A network that finds what is red, such as the cup of the sample photo: a smooth mask of 0…1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        weight = torch.tensor([60.0, -30.0, -30.0])[None, :, None, None].expand(1, 3, 3, 3) / 9
        self.conv.weight, self.conv.bias = (
            nn.Parameter(value, requires_grad=False) for value in (weight.clone(), torch.tensor([-5.0]))
        )

    def forward(self, pixels: Tensor) -> Tensor:
        return self.conv(F.avg_pool2d(pixels, 3, 1, 1))  # type: ignore[no-any-return]


class Faulty(TorchRunner):
    """A runner whose masks are changed by a fault."""

    def __init__(self, network: nn.Module, fault: Callable[[Tensor], Tensor]) -> None:
        super().__init__(network, CPU, batch_sizes=(1, 4))
        self._fault = fault

    def run(self, pixels: Tensor) -> Tensor:
        return self._fault(super().run(pixels))


def small_subject(
    fault: Callable[[Tensor], Tensor] = lambda mask: mask,
    tiers: tuple[Tier, ...] = (Tier.BASIC, Tier.PROFESSIONAL),
    *,
    trained: bool = False,
) -> Subject:
    """Return a small network that serves these tiers, with a fault in the runner that serves it."""
    network = RedFinder()

    def open_it(precision: Precision, batch: int) -> Runner:
        return Faulty(deepcopy(network), fault)

    choices = tuple(Choice(tier, SMALL, ()) for tier in tiers)
    return Subject(SMALL, choices, trained=trained, network=lambda: deepcopy(network), open=open_it)


def take_a_smaller_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the self-test its photo at half the size, a quarter of the work; no stored alpha fits it."""
    data = io.BytesIO()
    Image.fromarray(samples.photo()).resize((600, 450)).save(data, "JPEG")
    pixels = np.array(Image.open(data))
    monkeypatch.setattr(samples, "photo_file", data.getvalue)
    monkeypatch.setattr(samples, "photo", lambda: pixels)
