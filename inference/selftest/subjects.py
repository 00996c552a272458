"""The networks under test: the checkpoints that serve this host's tiers, or networks with random weights."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from cutout.inference.backends.runners import BATCH_SIZES, Precision, Runner, TorchRunner, open_runner
from cutout.inference.errors import ModelUnavailable
from cutout.inference.tiers import TIERS, USUAL, Choice, Orders, Tier, choose
from cutout.inference.weights.loader import load_network
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint


@dataclass(frozen=True)
class Subject:
    """A network under test, and the tiers that it serves.

    `network` returns it on the CPU in float32, optimised: the reference. `open` returns the runner that serves it on
    the device, for a precision and a largest batch. With random weights, `trained` is False, and its masks are compared
    with the reference only.
    """

    checkpoint: Checkpoint
    choices: tuple[Choice, ...]
    trained: bool
    network: Callable[[], nn.Module]
    open: Callable[[Precision, int], Runner]


def installed(
    folder: ModelsFolder, device: Literal["cuda", "cpu"], orders: Orders = USUAL
) -> tuple[list[Subject], dict[Tier, ModelUnavailable]]:
    """Return a subject for each checkpoint that serves tiers here, and the reason for each tier that none serves."""
    choices, reasons = {}, {}
    for tier in Tier:
        try:
            choices[tier] = choose(tier, folder, orders)
        except ModelUnavailable as error:
            reasons[tier] = error
    checkpoints = {choice.checkpoint.name: choice.checkpoint for choice in choices.values()}
    subjects = [
        _installed(
            checkpoint, tuple(c for c in choices.values() if c.checkpoint == checkpoint), folder, device
        )
        for checkpoint in checkpoints.values()
    ]
    return subjects, reasons


def _installed(
    checkpoint: Checkpoint, choices: tuple[Choice, ...], folder: ModelsFolder, device: Literal["cuda", "cpu"]
) -> Subject:
    return Subject(
        checkpoint,
        choices,
        trained=True,
        network=lambda: load_network(checkpoint, folder),
        open=lambda precision, batch: open_runner(checkpoint, folder, device, precision, batch),
    )


def stand_in(checkpoint: Checkpoint, network: nn.Module, device: Literal["cuda", "cpu"]) -> Subject:
    """Return a subject whose network, optimised and in float32 on the CPU, has weights that are not the published ones.

    It stands in for the tiers that promise its checkpoint, and runs in torch.
    """

    def open_it(precision: Precision, batch: int) -> Runner:
        on_gpu = device == "cuda"
        usual = torch.float16 if on_gpu else torch.float32
        has_wider = on_gpu and precision == "auto" and torch.cuda.is_bf16_supported(including_emulation=False)
        sizes = [size for size in BATCH_SIZES if size < batch] + [batch]
        return TorchRunner(
            deepcopy(network),
            torch.device(device),
            dtype=usual if precision == "auto" else getattr(torch, precision),
            batch_sizes=sizes if on_gpu else (),
            wider=torch.bfloat16 if has_wider else None,
            values=checkpoint.input_range,
        )

    promised = [tier for tier, rule in TIERS.items() if rule.checkpoints[0] == checkpoint.name]
    choices = tuple(Choice(tier, checkpoint, ()) for tier in promised)
    return Subject(checkpoint, choices, trained=False, network=lambda: deepcopy(network), open=open_it)
