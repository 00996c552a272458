"""What a CUDA GPU needs and a CPU does not: streams, pinned memory, events, graphs, and errors of its own.

Everything here also works on the CPU, where it does the plain thing, so that there is one path to test.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from cutout.inference.errors import DeviceLost, OutOfMemory
from cutout.inference.imaging.decode import Pixels

# Photos share a few streams: torch's allocator keeps what was freed for each stream apart.
PHOTO_STREAMS = 4
FIRST = -1  # priority: a photo's small kernels go before those of a batch, which fill the GPU
HOST_FULL = (
    "This host's memory does not hold what the photo needs. Set a smaller CUTOUT_MEGAPIXELS_IN_WORK or"
    " CUTOUT_MAX_MEGAPIXELS, or send a smaller photo."
)
# Runs before a capture, in which libraries choose their kernels and allocate what they keep.
RUNS_BEFORE_CAPTURE = 3


class Streams:
    """Lanes of work on one device that do not wait for each other: one for the network, a few for photos."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._mine = threading.local()
        if device.type == "cuda":
            self._network = torch.cuda.Stream(device)
            photo_streams = [torch.cuda.Stream(device, priority=FIRST) for _ in range(PHOTO_STREAMS)]
            self._photo_streams = itertools.cycle(photo_streams)

    def network(self) -> AbstractContextManager[object]:
        """Run what is queued inside in the network's lane."""
        return nullcontext() if self._device.type == "cpu" else torch.cuda.stream(self._network)

    def photo(self) -> AbstractContextManager[object]:
        """Run what is queued inside in the lane of the calling thread."""
        if self._device.type == "cpu":
            return nullcontext()
        if not hasattr(self._mine, "stream"):
            self._mine.stream = next(self._photo_streams)
        return torch.cuda.stream(self._mine.stream)


def upload(pixels: Pixels, device: torch.device) -> Tensor:
    """Bring an array to a device, from pinned memory, without waiting; on the CPU it is shared, not copied."""
    tensor = torch.from_numpy(pixels)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def download(tensor: Tensor) -> Pixels:
    """Bring uint8 from a device, into pinned memory; on the CPU it is shared, not copied."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    wait_for(tensor.device)
    return pinned.numpy()


def wait_for(device: torch.device) -> None:
    """Wait until what the calling thread has queued is done, without keeping a core busy."""
    if device.type == "cuda":
        event = torch.cuda.Event(blocking=True)
        event.record()
        event.synchronize()


def used_here(tensor: Tensor) -> Tensor:
    """Tell the allocator that the current stream uses a tensor of another one, so that it is not reused too early."""
    if tensor.device.type == "cuda":
        tensor.record_stream(torch.cuda.current_stream(tensor.device))
    return tensor


def timed(device: torch.device, work: Callable[[], Tensor]) -> Callable[[], tuple[Tensor, float]]:
    """Queue work on the current stream; what is returned waits for its result and says how many seconds it took."""
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


@contextmanager
def errors_translated() -> Iterator[None]:
    """Raise torch's errors of a GPU, and of memory on either side, as the engine's own.

    Raises:
        OutOfMemory: the GPU's memory or the host's is full; after smaller work it goes on.
        DeviceLost: anything else that it reports; CUDA gives such an error for every later call too.

    """
    try:
        yield
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):
            raise OutOfMemory(HOST_FULL) from error
        if isinstance(error, torch.OutOfMemoryError) or "_ALLOC_FAILED" in str(error):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemory(
                "The GPU's memory is full. Set a smaller CUTOUT_BATCH_SIZE or CUTOUT_MEGAPIXELS_IN_WORK, or free"
                " some of it (see nvidia-smi)."
            ) from error
        if isinstance(error, torch.AcceleratorError):
            raise DeviceLost(f"The GPU has failed ({error}). Check nvidia-smi and restart Cutout.") from error
        raise


class FixedBatch:
    """A function of batches of one size, captured as a CUDA graph; on the CPU it is called as it is.

    Captured, the hundreds of kernels of a network are started by one call instead of one by one. Smaller batches are
    filled up, with whatever was there before: photos of a batch do not see each other.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], example: Tensor, shared: "FixedBatch | None"
    ) -> None:
        """`example` is a batch, [B,…]. Graphs that never run at once may have their memory `shared`."""
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
            with torch.cuda.graph(self._graph, pool=pool):
                self._output = function(self._input)
        else:
            self._output = function(self._input)

    def __call__(self, batch: Tensor) -> Tensor:
        """Run up to B of them, [b,…] → [b,…]."""
        self._input[: len(batch)].copy_(batch)
        if self._graph is not None:
            self._graph.replay()
        else:
            self._output.copy_(self._function(self._input))
        return self._output[: len(batch)].clone()
