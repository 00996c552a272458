"""An engine whose memory runs full in a photo's own work, and photos that come while it warms up."""

import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from cutout.inference.backends import cuda
from cutout.inference.backends.cuda import upload
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import OutOfMemory
from cutout.inference.limits import Limits
from cutout.inference.options import DEFAULT_OPTIONS
from tests.fakes import PATIENCE, FakeRunner, fake_engine, held_until, photo_bytes, wait_until

FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = fake_engine(limits=Limits(threads=4))
    yield engine
    engine.close()


def test_a_photo_that_finds_no_memory_is_tried_again_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos of 41 pixels' width find no memory while another photo is in work; all are done in the end."""
    in_work: list[int] = []
    failed: list[int] = []
    lock = threading.Lock()

    def crowded_upload(pixels: Any, device: torch.device) -> Any:
        width = pixels.shape[1]
        with lock:
            in_work.append(width)
            crowd = len(in_work)
        wait_until(lambda: crowd > 1 or bool(failed) or len(in_work) > 1)
        if width == 41 and len(in_work) > 1:
            with lock:
                in_work.remove(width)
                failed.append(width)
            raise FULL
        return upload(pixels, device)

    def leave(*args: Any) -> Any:
        if args[0].ndim > 1:  # the picture, not the facts about it
            with lock:
                in_work.remove(args[0].shape[1])
        return cuda.download(*args)

    monkeypatch.setattr("cutout.inference.loaded.upload", crowded_upload)
    monkeypatch.setattr("cutout.inference.removal.download", leave)
    photos = [(number, lambda n=number: photo_bytes(40 + n % 2)) for number in range(8)]
    outcomes = dict(engine.remove_many(photos, DEFAULT_OPTIONS))
    assert failed
    assert engine.figures.no_room() == {"batch": 0, "photo": len(failed)}
    assert all(isinstance(outcome, Cutout) for outcome in outcomes.values())
    assert engine.budget._left == engine.budget.total


def test_a_photo_that_never_fits_fails_after_two_tries_and_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is tried again, nothing of the first attempt is left in the memory."""
    first: list[weakref.ref[torch.Tensor]] = []
    left_of_first: list[bool] = []

    def no_room(pixels: Any, device: torch.device) -> Any:
        if pixels.shape[1] != 41:
            return upload(pixels, device)
        left_of_first.extend(tensor() is not None for tensor in first)
        tensor = torch.zeros(10)
        first.append(weakref.ref(tensor))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("cutout.inference.loaded.upload", no_room)
    photos = [(width, lambda width=width: photo_bytes(width)) for width in (40, 41, 42)]
    outcomes = dict(engine.remove_many(photos, DEFAULT_OPTIONS))
    assert isinstance(outcomes[41], OutOfMemory)
    assert isinstance(outcomes[40], Cutout)
    assert isinstance(outcomes[42], Cutout)
    assert left_of_first == [False]

    engine.device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    with pytest.raises(OutOfMemory, match=r"for this photo, even alone. Send a smaller photo"):
        engine.remove(photo_bytes(41))


def test_a_network_without_memory_for_one_photo_is_tried_again_alone(engine: Engine) -> None:
    runner = next(iter(engine.serving.values())).runner
    assert isinstance(runner, FakeRunner)
    tries: list[int] = []

    def full_once() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise OutOfMemory("full")

    runner.before = full_once
    assert engine.remove(photo_bytes()).width == 40
    assert len(tries) == 2


def test_photos_that_come_while_an_engine_warms_up_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a graph is captured, a photo's CUDA calls could spoil it; and photos in work are waited for."""
    capturing = threading.Event()
    go_on, at_capture, at_upload = threading.Event(), threading.Event(), threading.Event()

    class Capturing(FakeRunner):
        def warm_up(self, input_size: int) -> None:
            capturing.set()
            at_capture.set()
            held_until(go_on)
            capturing.clear()

    def watched_upload(*args: Any) -> Any:
        assert not capturing.is_set(), "a photo's call came between the beginning and the end of a capture"
        at_upload.set()
        return upload(*args)

    for name in ("upload", "download", "wait_for", "used_here"):
        real = getattr(cuda, name)

        def watched(*args: Any, real: Any = real) -> Any:
            assert not capturing.is_set(), (
                "a photo's call came between the beginning and the end of a capture"
            )
            return real(*args)

        module = "engine" if name in ("wait_for", "used_here") else "removal"
        monkeypatch.setattr(f"cutout.inference.{module}.{name}", watched)
    monkeypatch.setattr("cutout.inference.loaded.upload", watched_upload)

    in_network = threading.Event()
    runner = Capturing(before=lambda: held_until(in_network))
    engine = fake_engine(runner)
    early = engine.submit(photo_bytes(), DEFAULT_OPTIONS)
    assert at_upload.wait(PATIENCE)
    warming = threading.Thread(target=engine.warm_up)
    warming.start()
    assert not at_capture.wait(0.05), "a photo is in work"
    in_network.set()
    assert early.result(PATIENCE).width == 40
    assert at_capture.wait(PATIENCE)

    late = [engine.submit(photo_bytes(), DEFAULT_OPTIONS) for _ in range(3)]
    assert not late[0].done()
    assert (engine.in_work, engine.waiting) == (0, 3)
    assert late[2].cancel()
    go_on.set()
    assert [future.result(PATIENCE).width for future in late[:2]] == [40, 40]
    warming.join(PATIENCE)
    engine.close()


@pytest.mark.parametrize(
    ("free", "asked", "expected"), [(640, 200, 10), (64_000, 200, 200), (64_000, 30, 30), (0, 200, 0)]
)
def test_photos_in_work_fit_into_the_gpus_free_memory(
    free: int, asked: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In megabytes and megapixels: what is free after the networks have taken theirs, but at most the setting."""
    released: list[bool] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append(True))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free * 1_000_000, 80_000_000_000))
    monkeypatch.setattr("cutout.inference.engine.run_recipes", lambda *_: None)
    monkeypatch.setattr("cutout.inference.engine.wait_for", lambda _: None)
    engine = fake_engine(limits=Limits(pixels_in_work=asked * 1_000_000))
    engine.device = torch.device("cuda")
    engine.warm_up()
    assert engine.budget.total == max(1, expected * 1_000_000)
    assert released
    engine.close()
