"""Engines whose network is the stub of Hugging Face, with short waits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cutout.inference.backends.runners import Serving
from cutout.inference.engine import Engine
from cutout.inference.huggingface import client, faults
from cutout.inference.huggingface.client import endpoint_offer
from cutout.inference.huggingface.config import HuggingFaceConfig
from cutout.inference.huggingface.dispatcher import HuggingFaceDispatcher, RemoteRunner, RetryPolicy
from cutout.inference.limits import Limits
from cutout.inference.scheduling.circuit_breaker import CircuitBreaker
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import Checkpoint, find
from tests.fakes import PATIENCE
from tests.stub_huggingface import TOKEN, Levels, Stub

QUICK = RetryPolicy(first=0.002, longest=0.01)
PROMISED = find("rmbg-2.0")
# RMBG-2.0 with a smaller input, so that many photos are processed quickly.
SMALL = replace(PROMISED, input_size=64)


@contextmanager
def engine_on(
    stub: Stub,
    *,
    seconds: float = PATIENCE,
    concurrency: int = 8,
    breaker: CircuitBreaker | None = None,
    checkpoint: Checkpoint = SMALL,
    **others: Any,
) -> Iterator[Engine]:
    """Open an engine on the stub's endpoint. Its circuit breaker never opens unless one is given."""
    access = HuggingFaceConfig(TOKEN, endpoint=f"{stub.url}/rmbg", seconds=seconds, concurrency=concurrency)
    remote = HuggingFaceDispatcher(access, QUICK, breaker or CircuitBreaker(failures=10_000), **others)
    assert access.endpoint is not None
    runner = RemoteRunner(endpoint_offer(checkpoint, access.endpoint), remote)
    serving = {tier: Serving(Choice(tier, checkpoint, ()), runner) for tier in Tier}
    engine = Engine(serving, Limits(threads=concurrency + 2, waiting=1000), remote)
    try:
        yield engine
    finally:
        engine.close()


class GivenMasks:
    """A local network that returns the given masks one after another."""

    backend = "given"
    device = torch.device("cpu")

    def __init__(self, masks: Sequence[Levels]) -> None:
        self._masks = iter(masks)

    def run(self, pixels: Tensor) -> Tensor:
        return torch.from_numpy(next(self._masks))[None, None].float() / 255

    def warm_up(self, input_size: int) -> None:
        pass


def local_engine(masks: Sequence[Levels], checkpoint: Checkpoint = PROMISED) -> Engine:
    """Open a local engine whose network returns these masks."""
    runner = GivenMasks(masks)
    serving = {tier: Serving(Choice(tier, checkpoint, ()), runner) for tier in Tier}
    return Engine(serving, Limits(threads=1))


def wait_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the waits that no argument controls."""
    monkeypatch.setattr(faults, "LOADING_SECONDS", 0.02)
    monkeypatch.setattr(client, "POLL_SECONDS", 0.01)
