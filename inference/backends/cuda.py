"""Helpers for CUDA GPUs: streams, pinned memory, events, graphs and error translation.

Every helper also works on the CPU, where it does the equivalent without CUDA, so that there is one code path to test.
"""

import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from cutout.inference.errors import DeviceLost, NetworkFailed, OutOfMemory
from cutout.inference.figures import DeviceMemory

# Threads share a few photo streams, because torch's allocator keeps a separate pool of freed memory per stream.
PHOTO_STREAMS = 4
FIRST = -1  # stream priority: a photo's small kernels run before those of a batch, which fill the GPU
HOST_FULL = (
    "This host does not have enough memory for the photo. Set a smaller CUTOUT_MEGAPIXELS_IN_WORK or"
    " CUTOUT_MAX_MEGAPIXELS, or send a smaller photo."
)
PHOTO_DOES_NOT_FIT = (
    "The GPU does not have enough memory for this photo, even alone. Send a smaller photo, set a smaller"
    " CUTOUT_BATCH_SIZE, or free some GPU memory (see nvidia-smi)."
)
# CUDA error codes (driver_types.h) after which every later call of the process fails too: no device, uncorrectable
# memory or link, illegal address or instruction, a launch that never ends, "unknown".
LOST = frozenset({46, 100, 214, 220, 700, 702, 709, 710, *range(714, 720), 999})
MEMORY_FULL = 2
# GPU memory for the photos in work. Counted for 12 megapixels: 45 bytes a pixel at the peak, and 120 if most of the
# photo is semi-transparent; few photos are at their peak at once, and one that finds no room is retried alone.
BYTES_PER_PIXEL = 64
# Warm-up runs before a graph capture, in which libraries choose kernels and allocate their workspaces.
RUNS_BEFORE_CAPTURE = 3


# So many threads start photos' operations at a time. Each operation is a call of microseconds, before and after which a
# thread hands Python's lock on: among dozens of threads, that takes longer than the operation.
LAUNCHERS = 2
# After so long a thread that computes in Python lets another go on, in seconds. By default it is ten times as much: a
# thread that starts operations would wait longer for one that decodes or encodes than it takes itself.
SWITCH_SECONDS = 0.0005


class Streams:
    """Independent CUDA streams on one device: one for the network, a few for photos."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mine = threading.local()
        self._launchers = threading.BoundedSemaphore(LAUNCHERS)
        if device.type == "cuda":
            sys.setswitchinterval(SWITCH_SECONDS)
            self._network = torch.cuda.Stream(device)
            photo_streams = [torch.cuda.Stream(device, priority=FIRST) for _ in range(PHOTO_STREAMS)]
            self._photo_streams = itertools.cycle(photo_streams)

    def network(self) -> AbstractContextManager[object]:
        """Return a context manager that queues work on the network's stream."""
        return nullcontext() if self._device.type == "cpu" else torch.cuda.stream(self._network)

    @contextmanager
    def photo(self) -> Iterator[None]:
        """Queue work on the calling thread's photo stream, while few other threads do so. It may wait for them."""
        if self._device.type == "cpu":
            yield
            return
        if not hasattr(self._mine, "stream"):
            self._mine.stream = next(self._photo_streams)
        with self._launchers, torch.cuda.stream(self._mine.stream):
            yield

    @contextmanager
    def letting_others(self) -> Iterator[None]:
        """Within `photo`, let other threads queue work meanwhile: for a wait."""
        if self._device.type == "cpu":
            yield
            return
        self._launchers.release()
        try:
            yield
        finally:
            self._launchers.acquire()


def upload(pixels: npt.NDArray[Any], device: torch.device) -> Tensor:
    """Copy an array to a device, asynchronously from pinned memory. On the CPU the tensor shares its memory."""
    tensor = torch.from_numpy(pixels)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> npt.NDArray[Any]:
    """Copy a tensor to the host, into pinned memory. On the CPU the array shares its memory."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    wait_for(tensor.device)
    return pinned.numpy()


def wait_for(device: torch.device) -> None:
    """Wait until the work queued on the current stream is done, without keeping a CPU core busy."""
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=True)
        event.record()
        event.synchronize()


def used_here(tensor: Tensor) -> Tensor:
    """Mark a tensor of another stream as used by the current one, so that its memory is not reused too early."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def timed(device: torch.device, work: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, float]]:
    """Queue `work` on the current stream and return a function that waits for it.

    That function returns the result and the seconds the work took on the device.
    """
    if device.type == "cpu":
        start = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - start
        return lambda: (result, seconds)

    begin, end = (torch.cuda.Event(enable_timing=True, blocking=True) for _ in range(2))
    begin.record()
    result = work()
    end.record()

    def wait() -> tuple[Tensor, float]:
        end.synchronize()
        return result, begin.elapsed_time(end) / 1000

    return wait


def release_unused(device: torch.device) -> None:
    """Return memory that torch keeps for reuse to the GPU, as other streams, graphs and processes cannot use it.

    After an error, call this once the error is dropped: its traceback refers to the tensors of the work that failed,
    in the batcher through a cycle, for which the garbage is collected.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def pixels_that_fit(device: torch.device) -> int:
    """Return for how many pixels of photos a GPU has memory now, at least 1."""
    release_unused(device)
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, free // BYTES_PER_PIXEL)


def memory_of(device: torch.device) -> DeviceMemory | None:
    """Return the memory of a GPU now; None on a CPU, or if the GPU does not answer."""
    if device.type == "cpu":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(
            total, free, torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
        )
    except RuntimeError:
        return None


@contextmanager
def errors_translated() -> Iterator[None]:
    """Translate torch's GPU errors and out-of-memory errors into the engine's own.

    Raises:
        OutOfMemory: the GPU's memory or the host's is full; smaller work may still succeed.
        DeviceLost: the GPU reported an error after which CUDA fails every later call too.
        NetworkFailed: the GPU refused this work only; the next may succeed.

    """
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        code = getattr(error, "error_code", None)  # set by torch on the errors that CUDA reports
        if "DefaultCPUAllocator" in text:
            raise OutOfMemory(HOST_FULL) from error
        if isinstance(error, torch.OutOfMemoryError) or "_ALLOC_FAILED" in text or code == MEMORY_FULL:
            raise OutOfMemory(
                "The GPU's memory is full. Set a smaller CUTOUT_BATCH_SIZE or CUTOUT_MEGAPIXELS_IN_WORK, or free"
                " some GPU memory (see nvidia-smi)."
            ) from error
        of_library = "CUBLAS_STATUS" in text or "CUDNN_STATUS" in text
        if not isinstance(error, torch.AcceleratorError) and not of_library:
            raise
        if (code is None and not of_library) or code in LOST or (of_library and not _answers()):
            raise DeviceLost(f"The GPU has failed ({error}). Check nvidia-smi and restart Cutout.") from error
        raise NetworkFailed(
            f"The GPU could not process this photo ({text.splitlines()[0]}). Try again."
        ) from error


def _answers() -> bool:
    """Return whether the GPU still works: an error of cuBLAS or cuDNN does not say so itself."""
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


class FixedBatch:
    """A function for batches of one fixed size, captured as a CUDA graph. On the CPU it is called directly.

    A graph starts the hundreds of kernels of a network with one call instead of one by one. A smaller batch leaves
    old data in the rest of the input, which is harmless: the photos of a batch do not affect each other.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], example: Tensor, shared: "FixedBatch | None"
    ) -> None:
        """Capture `function` for batches like `example`, [B,…]; reuse the memory pool of `shared`.

        Two graphs may share memory only if they never run at the same time.
        """
        self._function = function
        self._input = example.clone()
        self._graph = None
        if example.device.type == "cuda":
            side = torch.cuda.Stream(example.device)
            side.wait_stream(torch.cuda.current_stream(example.device))
            with torch.cuda.stream(side):
                for _ in range(RUNS_BEFORE_CAPTURE):
                    function(self._input)
            torch.cuda.current_stream(example.device).wait_stream(side)
            self._graph = torch.cuda.CUDAGraph()
            pool = shared._graph.pool() if shared is not None and shared._graph is not None else None
            # With the default mode, what another thread does meanwhile would make the capture fail.
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._output = function(self._input)
        else:
            self._output = function(self._input)

    def __call__(self, batch: Tensor) -> Tensor:
        """Run the function on up to B items, [b,…] → [b,…]."""
        self._input[: len(batch)].copy_(batch)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._output.copy_(self._function(self._input))
        return self._output[: len(batch)].clone()
