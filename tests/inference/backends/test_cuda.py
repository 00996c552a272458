"""The CUDA backend: on the CPU with small networks and, if there is one, on the GPU."""

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cutout.inference.backends.cuda import (
    FixedBatch,
    Streams,
    download,
    errors_translated,
    timed,
    upload,
    used_here,
    wait_for,
)
from cutout.inference.backends.overflow import like_a_photo
from cutout.inference.backends.runners import TorchRunner
from cutout.inference.errors import DeviceLost, DeviceUnavailable, NetworkFailed, OutOfMemory
from cutout.inference.matting.mask import to_pixels
from cutout.models import gpu_kernels, isnet
from cutout.models.catalog import CHECKPOINTS

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


class Small(nn.Module):
    """A network whose masks differ from photo to photo; it records the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 1, 3, padding=1)
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        self.batches.append(len(pixels))
        out: Tensor = self.conv(pixels)
        return out


def photos(count: int, device: str = "cpu") -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(device)


@pytest.mark.parametrize("device", DEVICES)
def test_batches_of_any_size_are_filled_up_to_a_captured_one(device: str) -> None:
    network = Small()
    expected = TorchRunner(network, torch.device("cpu")).run(photos(11))
    runner = TorchRunner(network, torch.device(device), batch_sizes=(1, 2, 4))
    runner.warm_up(32)
    network.batches.clear()
    for count in (11, 4, 3, 2, 1):
        masks = runner.run(photos(11, device)[:count])
        torch.testing.assert_close(masks.cpu(), expected[:count], atol=1e-3, rtol=0)
    # 11 = 4 + 4 + 3, padded to 4; a replayed CUDA graph calls no Python code.
    assert network.batches == ([4, 4, 4, 4, 4, 2, 1] if device == "cpu" else [])


@pytest.fixture
def _pretended_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch.cuda, "Stream", lambda *_, **__: object())
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    before = sys.getswitchinterval()
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_pretended_streams")
def test_two_threads_start_operations_at_a_time_and_others_do_while_one_waits() -> None:
    streams = Streams(torch.device("cuda"))
    waits, goes_on = threading.Event(), threading.Event()

    def first() -> None:
        with streams.photo():
            inside.release()
            waits.wait(60)
            with streams.letting_others():
                goes_on.wait(60)

    def other() -> None:
        with streams.photo():
            inside.release()
            goes_on.wait(60)

    inside = threading.Semaphore(0)
    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(first), threads.submit(other)]
        for _ in running:
            assert inside.acquire(timeout=60)
        running.append(threads.submit(other))
        assert not inside.acquire(timeout=0.1)  # the third waits
        waits.set()
        assert inside.acquire(timeout=60)
        goes_on.set()
        for one in running:
            one.result(60)
    with streams.photo(), streams.photo():  # all places are free again
        pass


@pytest.mark.usefixtures("_pretended_streams")
def test_an_error_during_a_wait_frees_one_place_only() -> None:
    streams = Streams(torch.device("cuda"))
    for _ in range(3):
        with pytest.raises(OutOfMemory), streams.photo(), streams.letting_others():
            raise OutOfMemory("full")
    with streams.photo(), streams.photo():
        pass


@pytest.mark.parametrize("device", DEVICES)
def test_an_answer_is_not_overwritten_by_the_next_run(device: str) -> None:
    batch = FixedBatch(lambda pixels: pixels * 2, torch.zeros(2, 3, device=device), None)
    first = batch(torch.ones(2, 3, device=device))
    second = batch(torch.full((1, 3), 5.0, device=device))
    assert first.tolist() == [[2.0] * 3] * 2
    assert second.tolist() == [[10.0] * 3]


def test_batch_sizes_that_do_not_fit_are_done_without() -> None:
    class Large(Small):
        def forward(self, pixels: Tensor) -> Tensor:
            if len(pixels) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(pixels)

    network = Large()
    runner = TorchRunner(network, torch.device("cpu"), batch_sizes=(1, 2, 4, 8))
    runner.warm_up(32)
    network.batches.clear()
    assert runner.run(photos(5)).shape == (5, 1, 32, 32)
    assert network.batches == [2, 2, 1]

    with pytest.raises(OutOfMemory, match="CUTOUT_BATCH_SIZE"):
        TorchRunner(network, torch.device("cpu"), batch_sizes=(4,)).warm_up(32)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 2e-2)])
def test_a_runner_of_half_precision_takes_and_gives_floats(
    device: str, dtype: torch.dtype, tolerance: float
) -> None:
    expected = TorchRunner(Small(), torch.device("cpu")).run(photos(3))
    runner = TorchRunner(Small(), torch.device(device), dtype=dtype, batch_sizes=(4,))
    runner.warm_up(32)
    mask = runner.run(photos(3, device))
    assert mask.dtype == torch.float32
    assert 0 < (mask.cpu() - expected).abs().max() < tolerance


@pytest.mark.parametrize("device", DEVICES)
def test_pixels_go_up_and_come_down_bit_for_bit(device: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    tensor = upload(pixels, torch.device(device))
    assert tensor.device.type == device
    np.testing.assert_array_equal(download(tensor), pixels)


def test_on_a_cpu_nothing_is_copied() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    assert np.shares_memory(download(upload(pixels, torch.device("cpu"))), pixels)


@pytest.mark.parametrize("device", DEVICES)
def test_many_threads_beside_a_network_get_their_own_results(device: str) -> None:
    """As in the engine: photos in their own CUDA streams, the network in another, with memory reused."""
    target = torch.device(device)
    streams = Streams(target)
    network_turn = threading.Lock()

    def network(pixels: Tensor) -> Tensor:
        for _ in range(20):
            pixels = pixels * 1.0
        return pixels + 1

    def carry(number: int) -> bool:
        with streams.photo():
            pixels = upload(np.full((256, 256), number % 200, np.uint8), target).float()
            wait_for(target)
            with network_turn, streams.network():
                wait = timed(target, lambda: network(pixels))
            mask, seconds = wait()
            found = download((used_here(mask) * 1).to(torch.uint8))
        return seconds > 0 and bool((found == number % 200 + 1).all())

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(carry, range(300)))


def cuda_error(code: int) -> torch.AcceleratorError:
    """Return an error as torch raises it for a code of CUDA."""
    error = torch.AcceleratorError(f"CUDA error: code {code}")
    setattr(error, "error_code", code)  # noqa: B010 - torch sets it too, but does not declare it
    return error


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (cuda_error(2), OutOfMemory),
        *((cuda_error(code), NetworkFailed) for code in (1, 9, 209, 900, 901)),
        *((cuda_error(code), DeviceLost) for code in (700, 719, 999)),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), OutOfMemory),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
        (ValueError("something else"), ValueError),
    ],
)
def test_the_errors_of_a_gpu_are_told_apart(raised: Exception, expected: type[Exception]) -> None:
    with pytest.raises(expected) as caught, errors_translated():
        raise raised
    assert type(caught.value) is expected


@pytest.mark.parametrize(("answers", "expected"), [(True, NetworkFailed), (False, DeviceLost)])
def test_after_an_error_of_a_library_the_gpu_itself_decides(
    monkeypatch: pytest.MonkeyPatch, answers: bool, expected: type[Exception]
) -> None:
    def synchronize() -> None:
        if not answers:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    with pytest.raises(expected), errors_translated():
        raise RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED")


def test_a_batch_size_that_cannot_be_captured_is_done_without(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Uncapturable(FixedBatch):
        def __init__(
            self, function: Callable[[Tensor], Tensor], example: Tensor, shared: FixedBatch | None
        ) -> None:
            if len(example) == 4:
                raise cuda_error(900)
            super().__init__(function, example, shared)

    monkeypatch.setattr("cutout.inference.backends.runners.FixedBatch", Uncapturable)
    runner = TorchRunner(Small(), torch.device("cpu"), batch_sizes=(1, 2, 4))
    runner.warm_up(32)
    assert "No CUDA graph for batches of 4" in caplog.text
    assert "code 900" in caplog.text, "with the error"
    assert (runner.backend, len(runner.notes)) == ("torch-cpu-eager", 1)
    expected = TorchRunner(Small(), torch.device("cpu")).run(photos(4))
    torch.testing.assert_close(runner.run(photos(4)), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("spoil", [float("inf"), float("-inf"), float("nan")])
def test_a_logit_that_overflowed_gives_no_mask(spoil: float) -> None:
    class Overflowing(Small):
        def forward(self, pixels: Tensor) -> Tensor:
            out = super().forward(pixels)
            out[0, 0, 3, 5] = spoil
            return out

    mask = TorchRunner(Overflowing(), torch.device("cpu")).run(photos(1))
    assert mask[0, 0, 3, 5].isnan()
    assert mask.isnan().sum() == 1


class Tall(Small):
    """A network whose numbers grow with the range of its input, up to about 10⁵ for photos."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(pixels * self.factor / 2.0) * 2.0 / self.factor


def test_a_network_that_overflows_in_float16_is_run_in_bfloat16(caplog: pytest.LogCaptureFixture) -> None:
    network = Tall(3e5)
    expected = TorchRunner(network, torch.device("cpu")).run(photos(3))
    runner = TorchRunner(
        network, torch.device("cpu"), dtype=torch.float16, wider=torch.bfloat16, batch_sizes=(1, 2)
    )
    assert runner.backend == "torch-cpu"
    runner.warm_up(32)
    assert runner.backend == "torch-cpu-bfloat16"
    assert "too large for float16; bfloat16 is used" in caplog.text
    assert len(runner.notes) == 1
    torch.testing.assert_close(runner.run(photos(3)), expected, atol=2e-2, rtol=0)


def test_a_network_that_overflows_without_a_wider_type_is_an_error_at_the_start() -> None:
    runner = TorchRunner(Tall(3e5), torch.device("cpu"), dtype=torch.float16)
    with pytest.raises(DeviceUnavailable, match="CUTOUT_PRECISION=bfloat16"):
        runner.warm_up(32)
    beyond_all = TorchRunner(
        Tall(float("inf")), torch.device("cpu"), dtype=torch.float16, wider=torch.bfloat16
    )
    with pytest.raises(DeviceUnavailable, match="or float32"):
        beyond_all.warm_up(32)


@pytest.mark.parametrize(
    ("factor", "values", "word"),
    [(100.0, (-2.2, 2.7), ""), (4e4, (-0.5, 0.5), ""), (4e4, (-2.2, 8.0), "-bfloat16")],
)
def test_only_numbers_that_photos_reach_count(factor: float, values: tuple[float, float], word: str) -> None:
    runner = TorchRunner(
        Tall(factor), torch.device("cpu"), dtype=torch.float16, wider=torch.bfloat16, values=values
    )
    runner.warm_up(32)
    assert runner.backend == f"torch-cpu{word}"


def test_the_range_of_a_checkpoints_inputs_is_that_of_black_and_white() -> None:
    for checkpoint in CHECKPOINTS.values():
        corners = [
            to_pixels(torch.full((4, 4, 3), level, dtype=torch.uint8), replace(checkpoint, input_size=4))
            for level in (0, 255)
        ]
        lowest, highest = checkpoint.input_range
        assert lowest == pytest.approx(float(corners[0].min()))
        assert highest == pytest.approx(float(corners[1].max()))
        picture = like_a_photo(64, checkpoint.input_range, torch.device("cpu"))
        assert lowest - 1e-5 <= float(picture.min()) < float(picture.max()) <= highest + 1e-5
        assert picture.std() > 0.2 * (highest - lowest)


class Pooled(Small):
    """A network that uses one of the kernels."""

    def forward(self, pixels: Tensor) -> Tensor:
        return super().forward(isnet.upsample(isnet.halve(pixels), pixels))


@pytest.mark.skipif(not gpu_kernels.INSTALLED, reason="Triton is published for Linux only")
@pytest.mark.parametrize(
    ("kernel", "reason"),
    [(lambda x: 1 / 0, "do not run"), (lambda x: F.max_pool2d(-x, 2), "give other masks"), (None, "")],
    ids=["broken", "wrong", "right"],
)
def test_kernels_that_fail_or_give_other_masks_are_switched_off(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kernel: Callable[[Tensor], Tensor] | None,
    reason: str,
) -> None:
    if kernel:
        monkeypatch.setattr(gpu_kernels, "halve", kernel)
    network = Pooled()
    network.conv.weight.data *= 30
    runner = TorchRunner(network, torch.device("cpu"))
    with gpu_kernels.only(on=True, everywhere=True):
        runner.warm_up(32)
        assert gpu_kernels.usable(photos(1)) == (kernel is None)
        found = runner.run(photos(2))
    assert reason in caplog.text
    torch.testing.assert_close(found, runner.run(photos(2)), atol=1e-4, rtol=0)
