"""What an engine counts: batches that ran and that did not fit, the memory of a GPU, and how values spread."""

import threading

import pytest
import torch
from torch import Tensor

from cutout.inference.backends.cuda import memory_of
from cutout.inference.errors import OutOfMemory
from cutout.inference.figures import BATCH_SIZES, Figures
from cutout.inference.limits import Limits
from cutout.inference.options import DEFAULT_OPTIONS
from tests.fakes import PATIENCE, FakeRunner, fake_engine, held_until, photo_bytes, wait_until

GPU = torch.device("cuda")


class SmallDevice(FakeRunner):
    """Has room for one photo at a time, and waits before its first."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def run(self, pixels: Tensor) -> Tensor:
        held_until(self.go_on)
        if len(pixels) > 1:
            raise OutOfMemory("the memory is full")
        return super().run(pixels)


def test_a_batch_that_does_not_fit_is_counted_apart_from_those_that_ran() -> None:
    device = SmallDevice()
    with fake_engine(device, Limits(threads=4, batch=3)) as engine:
        first = engine.submit(photo_bytes(), DEFAULT_OPTIONS)
        wait_until(lambda: engine._turns._running == 1)  # type: ignore[attr-defined]
        others = [engine.submit(photo_bytes(), DEFAULT_OPTIONS) for _ in range(3)]
        wait_until(lambda: len(engine._turns._waiting) == 3)  # type: ignore[attr-defined]
        device.go_on.set()
        for done in (first, *others):
            done.result(PATIENCE)
        assert engine.figures.no_room() == {"batch": 1, "photo": 0}
        (spread,) = engine.figures.batches().values()
        assert (spread.number, spread.total, spread.counts[0]) == (4, 4, 4)


def test_values_are_counted_up_to_each_bound() -> None:
    figures = Figures()
    for size in (1, 2, 3, 64, 65):
        figures.batch_ran("it", size)
    spread = figures.batches()["it"]
    assert dict(zip(BATCH_SIZES, spread.counts, strict=True)) == {1: 1, 2: 2, 4: 3, 8: 3, 16: 3, 32: 3, 64: 4}
    assert (spread.number, spread.total) == (5, 135)


def test_the_memory_of_a_gpu_is_told_and_that_of_a_lost_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory_of(torch.device("cpu")) is None
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3, 10))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 4)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 6)
    memory = memory_of(GPU)
    assert memory is not None
    assert memory._asdict() == {"total": 10, "free": 3, "allocated": 4, "reserved": 6}

    def lost(_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "mem_get_info", lost)
    assert memory_of(GPU) is None
