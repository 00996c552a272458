"""The engine on a fake device that takes batches, is slow, runs out of memory, hangs or dies."""

import dataclasses
import io
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cutout.inference.backends.cuda import upload
from cutout.inference.cutout import Cutout
from cutout.inference.engine import Engine
from cutout.inference.errors import DeadlineExceeded, DeviceLost, NetworkFailed, OutOfMemory
from cutout.inference.limits import Limits, pixels_of
from cutout.inference.matting import refinement
from cutout.inference.options import Options
from cutout.inference.scheduling.batcher import Batcher
from cutout.inference.tiers import Tier
from tests.fakes import (
    PATIENCE,
    FakeRunner,
    disc_mask,
    fake_engine,
    held_until,
    open_picture,
    photo_bytes,
    photo_with_disc,
    wait_until,
)

pytestmark = pytest.mark.slow


class GreyRunner(FakeRunner):
    """Finds in a plain grey photo a disc whose size is its tone; `check` is called with each batch's tones."""

    def __init__(self, check: Callable[[list[int]], None] = lambda tones: None) -> None:
        super().__init__()
        self.check = check
        self.batches: list[list[int]] = []

    def run(self, pixels: Tensor) -> Tensor:
        tones = [round((float(one.mean()) + 0.5) * 255) for one in pixels]
        self.batches.append(tones)
        self.check(tones)
        masks = [disc_mask(pixels.shape[-1], tone / 510)[None] for tone in tones]
        return torch.stack(masks).to(pixels.device)


def grey(tone: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.full((40, 40, 3), tone, np.uint8)).save(data, "PNG")
    return data.getvalue()


def area(cutout: Cutout) -> float:
    alpha = np.asarray(open_picture(cutout.data).getchannel("A"))
    return float(alpha.mean() / 255)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[FakeRunner, Limits], Engine]]:
    """Return a function that builds engines; they are closed after the test."""
    made: list[Engine] = []

    def build(runner: FakeRunner, limits: Limits) -> Engine:
        runner.device = torch.device(request.param)
        made.append(fake_engine(runner, limits))
        return made[-1]

    yield build
    for engine in made:
        engine.close()


Make = Callable[[FakeRunner, Limits], Engine]


def test_photos_of_many_callers_share_batches_and_each_gets_its_own(make: Make) -> None:
    runner = GreyRunner()
    engine = make(runner, Limits(threads=12, batch=4, batch_wait=5))
    tones = list(range(40, 240, 10))
    futures = [engine.submit(grey(tone), Options(), caller=tone % 3) for tone in tones]
    for tone, future in zip(tones, futures, strict=True):
        assert area(future.result(PATIENCE)) == pytest.approx(np.pi * (tone / 510) ** 2, abs=0.02)
    assert sorted(itertools.chain(*runner.batches)) == tones
    assert max(map(len, runner.batches)) == 4


def test_a_photo_that_is_done_does_not_wait_for_the_next(make: Make) -> None:
    go_on = {60: threading.Event(), 120: threading.Event()}
    runner = GreyRunner(lambda tones: held_until(go_on[tones[0]]))
    engine = make(runner, Limits(threads=3))
    first = engine.submit(grey(60), Options())
    wait_until(lambda: runner.batches == [[60]])
    second = engine.submit(grey(120), Options())
    batcher = engine._turns
    assert isinstance(batcher, Batcher)
    wait_until(lambda: len(batcher._waiting) == 1)
    go_on[60].set()
    assert first.result(PATIENCE).width == 40
    assert not second.done()
    go_on[120].set()
    assert second.result(PATIENCE).width == 40


def test_one_bad_photo_in_a_batch_fails_alone(make: Make) -> None:
    def check(tones: list[int]) -> None:
        if 100 in tones:
            raise ValueError("no such tone")

    engine = make(GreyRunner(check), Limits(threads=8, batch=4, batch_wait=5))
    photos = [(tone, lambda tone=tone: grey(tone)) for tone in (60, 100, 140, 180)]
    outcomes = dict(engine.remove_many(photos, Options()))
    assert isinstance(outcomes.pop(100), NetworkFailed)
    assert len(outcomes) == 3
    assert all(isinstance(outcome, Cutout) for outcome in outcomes.values())


def test_a_device_that_runs_full_goes_on_in_smaller_batches(make: Make) -> None:
    def check(tones: list[int]) -> None:
        if len(tones) > 2:
            raise OutOfMemory("full")

    runner = GreyRunner(check)
    engine = make(runner, Limits(threads=12, batch=8, batch_wait=5))
    photos = [(tone, lambda tone=tone: grey(tone)) for tone in range(50, 210, 10)]
    outcomes = dict(engine.remove_many(photos, Options()))
    assert all(isinstance(outcome, Cutout) for outcome in outcomes.values())
    assert max(map(len, runner.batches)) > 2
    assert max(map(len, runner.batches[-4:])) <= 2


def test_a_photo_that_is_not_done_in_its_time_says_so(make: Make) -> None:
    go_on = threading.Event()
    runner = FakeRunner(before=lambda: held_until(go_on))
    engine = make(runner, Limits(threads=2, seconds=0.3))
    # Two photos have a thread, and one of them is on the device; the others wait for a thread.
    futures = [engine.submit(photo_bytes(), Options()) for _ in range(6)]
    for future in futures:
        with pytest.raises(DeadlineExceeded, match="CUTOUT_DEADLINE_SECONDS"):
            future.result(PATIENCE)  # The device hangs.
    go_on.set()

    def goes_on() -> bool:
        with suppress(DeadlineExceeded):  # Retry: the host may be busy.
            return engine.remove(photo_bytes()).width == 40
        return False

    wait_until(goes_on)


def test_a_device_that_dies_fails_everyone_and_is_reported(make: Make) -> None:
    started, go_on = threading.Event(), threading.Event()

    def die() -> None:
        started.set()
        go_on.wait(PATIENCE)
        raise DeviceLost("The GPU has fallen off the bus.")

    engine = make(FakeRunner(die), Limits(threads=2))
    told = threading.Event()
    engine.on_lost = told.set
    futures = [engine.submit(photo_bytes(), Options()) for _ in range(5)]
    assert started.wait(PATIENCE)
    go_on.set()
    for future in futures:
        with pytest.raises(DeviceLost, match="off the bus"):
            future.result(PATIENCE)
    assert told.wait(PATIENCE)
    assert engine.lost is not None
    with pytest.raises(DeviceLost, match="off the bus"):
        engine.submit(photo_bytes(), Options())


def test_a_device_that_dies_ends_a_long_run(make: Make) -> None:
    """Otherwise each photo of the folder would fail; photos that are not done are done in the next run."""

    def check(tones: list[int]) -> None:
        if 120 in tones:
            raise DeviceLost("The GPU has fallen off the bus.")

    engine = make(GreyRunner(check), Limits(threads=1))
    photos = ((tone, lambda tone=tone: grey(tone)) for tone in range(60, 250, 20))
    done: list[int] = []
    with pytest.raises(DeviceLost, match="off the bus"):
        done.extend(key for key, _ in engine.remove_many(photos, Options()))
    assert set(done) <= {60, 80, 100}


def test_a_mask_without_numbers_is_an_error_not_a_picture(make: Make) -> None:
    class Broken(FakeRunner):
        def run(self, pixels: Tensor) -> Tensor:
            return super().run(pixels) * float("nan")

    with pytest.raises(NetworkFailed, match="CUTOUT_PRECISION=float32"):
        make(Broken(), Limits()).remove(photo_bytes())


def test_a_photo_that_is_cancelled_never_meets_the_device(make: Make) -> None:
    go_on = threading.Event()
    runner = GreyRunner(lambda tones: held_until(go_on))
    engine = make(runner, Limits(threads=1))
    first = engine.submit(grey(60), Options())
    wait_until(lambda: runner.batches == [[60]])
    second = engine.submit(grey(100), Options())
    third = engine.submit(grey(140), Options())
    assert second.cancel()
    go_on.set()
    assert first.result(PATIENCE).width == third.result(PATIENCE).width == 40
    with pytest.raises(CancelledError):
        second.result()
    assert runner.batches == [[60], [140]]


def test_a_caller_with_one_photo_does_not_wait_for_all_of_anothers(make: Make) -> None:
    go_on = threading.Event()
    runner = GreyRunner(lambda tones: held_until(go_on))
    engine = make(runner, Limits(threads=1))
    futures = [engine.submit(grey(tone), Options(), caller="studio") for tone in range(50, 150, 10)]
    wait_until(lambda: len(runner.batches) == 1)
    futures.append(engine.submit(grey(200), Options(), caller="shop"))
    go_on.set()
    for future in futures:
        future.result(PATIENCE)
    assert runner.batches.index([200]) <= 2


def test_photos_in_work_stay_within_the_pixel_budget(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """There are four threads, but pixels for two photos: a third one is never decoded while two are in progress."""
    in_work: list[object] = []
    go_on = threading.Event()
    runner = GreyRunner(lambda tones: held_until(go_on))
    engine = make(runner, Limits(threads=4, batch=4, pixels_in_work=2 * pixels_of(40, 40) + 5))

    def counted(*args: Any) -> Any:
        in_work.append(args)
        return upload(*args)

    monkeypatch.setattr("cutout.inference.loaded.upload", counted)
    futures = [engine.submit(grey(tone), Options()) for tone in range(60, 120, 10)]
    # Two photos are in progress and two are waiting.
    wait_until(lambda: len(in_work) >= 2 and len(engine.budget.turns) == 2)
    assert len(in_work) == 2
    go_on.set()
    assert [future.result(PATIENCE).width for future in futures] == [40] * 6


def test_the_mask_alone_costs_no_colours(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refinement, "clean_colours", None)  # A call would raise.
    cutout = make(FakeRunner(), Limits()).remove(photo_bytes(), Options(tier=Tier.STANDARD, mask_only=True))
    assert open_picture(cutout.data).mode == "L"


@pytest.mark.gpu
@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("options", [Options(), Options(background=(0, 128, 0)), Options(mask_only=True)])
def test_a_gpu_gives_the_cutouts_of_a_cpu(make: Make, tier: Tier, options: Options) -> None:
    """Colours and alpha differ by a few levels at most, because the GPU resizes in floats, not in bytes."""
    data = io.BytesIO()
    Image.fromarray(photo_with_disc(400, 600, 60)[0].rgb).save(data, "PNG")
    wanted = dataclasses.replace(options, tier=tier)
    on_cpu = fake_engine(FakeRunner(radius=0.15))
    pictures = [
        np.asarray(open_picture(engine.remove(data.getvalue(), wanted).data), np.int16)
        for engine in (on_cpu, make(FakeRunner(radius=0.15), Limits()))
    ]
    on_cpu.close()
    assert pictures[0].std() > 10
    assert np.abs(pictures[0] - pictures[1]).mean() < 0.5


def test_closing_leaves_nobody_waiting() -> None:
    go_on = threading.Event()
    runner = GreyRunner(lambda tones: held_until(go_on))
    engine = fake_engine(runner, Limits(threads=1))
    futures = [engine.submit(grey(tone), Options()) for tone in (60, 100, 140)]
    wait_until(lambda: bool(runner.batches))
    closing = threading.Thread(target=engine.close)
    closing.start()
    wait_until(lambda: futures[2].cancelled() or engine.is_closed)
    go_on.set()
    closing.join(PATIENCE)
    assert futures[0].result(PATIENCE).width == 40
    assert futures[1].cancelled()
    assert futures[2].cancelled()


def test_a_device_that_dies_at_a_photos_own_work_is_reported_too(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> Tensor:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    engine = make(FakeRunner(), Limits())
    monkeypatch.setattr("cutout.inference.loaded.upload", die)
    with pytest.raises(DeviceLost, match="illegal memory access"):
        engine.remove(photo_bytes())
    assert engine.lost is not None
