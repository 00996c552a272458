"""Measures which library runs a network fastest on this GPU, for `CUTOUT_GPU_BACKEND=auto`."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from statistics import median

import torch
from torch import Tensor

from cutout.inference.backends import gpu_backends
from cutout.inference.backends.cuda import errors_translated, timed
from cutout.inference.backends.fastest import Measured
from cutout.inference.backends.runners import BATCH_SIZES, KERNELS_DIFFER, Precision, Runner, open_runner
from cutout.inference.backends.trial import trial_pixels
from cutout.inference.errors import CutoutError, DeviceLost
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint

RUNS = 10

Opener = Callable[[], Runner]


def measure_backends(
    checkpoint: Checkpoint,
    folder: ModelsFolder,
    precision: Precision,
    batch: int,
    telling: Callable[[str], AbstractContextManager[object]],
) -> Measured:
    """Measure a checkpoint in every library at the size `batch`, and remember the fastest for `gpu_library`.

    `telling` is entered with the name of each library in turn. TensorRT builds its engine for minutes.

    Raises:
        WeightsUnavailable, LicenceNotAccepted, OutOfMemory, DeviceLost: torch cannot run the checkpoint.

    """
    dtype = gpu_backends.dtype_of(precision)
    sizes = [size for size in BATCH_SIZES if size < batch] + [batch]
    openers: dict[str, Opener] = {
        "torch": lambda: open_runner(checkpoint, folder, "cuda", precision, batch, "torch")
    }
    for library in gpu_backends.LIBRARIES:
        openers[library] = partial(gpu_backends.open_onnx, library, checkpoint, folder, dtype, sizes)
    measured = compare(openers, checkpoint.input_size, batch, telling)
    gpu_backends.remember(checkpoint, folder, dtype, batch, measured)
    return measured


def compare(
    openers: Mapping[str, Opener],
    input_size: int,
    batch: int,
    telling: Callable[[str], AbstractContextManager[object]],
) -> Measured:
    """Open one runner after the other, the first of which is torch's, and compare their times and masks.

    One whose masks differ from torch's by more than half precision explains is not used.
    """
    seconds: dict[str, float] = {}
    failed: dict[str, str] = {}
    expected: Tensor | None = None
    for library, opener in openers.items():
        try:
            with telling(library):
                masks, spent = _measured(opener, input_size, batch)
        except DeviceLost:
            raise
        except CutoutError as error:
            if expected is None:
                raise
            failed[library] = str(error)
            continue
        expected = masks if expected is None else expected
        difference = float((masks - expected).abs().mean())
        if difference < KERNELS_DIFFER:  # false for masks that are not numbers
            seconds[library] = spent
        else:
            failed[library] = f"it gives other masks (by {difference:.4f} on the mean)"
    return gpu_backends.fastest_of(seconds, failed, batch)


def _measured(opener: Opener, input_size: int, batch: int) -> tuple[Tensor, float]:
    """Return the masks of a batch, and the median of the seconds that a run takes; the runner is closed afterwards."""
    runner = opener()
    runner.warm_up(input_size)
    pixels = torch.cat([trial_pixels(input_size).roll(97 * shift, dims=3) for shift in range(batch)])
    pixels = pixels.to(runner.device)
    work = partial(runner.run, pixels)
    with errors_translated():
        runs = [timed(runner.device, work)() for _ in range(RUNS)]
    masks = runs[-1][0].cpu()
    del runner, work
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return masks, median(spent for _, spent in runs)
