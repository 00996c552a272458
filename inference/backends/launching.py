"""Starting batches of a network on a device."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from cutout.inference.backends.cuda import Streams, errors_translated, timed
from cutout.inference.backends.runners import Runner

# Starts a batch, inputs [1,3,S,S], and returns a function that waits for each mask [1,1,S,S] and the seconds it took.
Launch = Callable[[Runner, Sequence[Tensor]], Callable[[], list[tuple[Tensor, float]]]]


def launcher(device: torch.device, streams: Streams) -> Launch:
    """Return the function with which a batcher starts batches on the network's stream of a device."""

    def launch(runner: Runner, pixels: Sequence[Tensor]) -> Callable[[], list[tuple[Tensor, float]]]:
        with errors_translated(), streams.network():
            batch = torch.cat(list(pixels)) if len(pixels) > 1 else pixels[0]
            run = timed(device, lambda: runner.run(batch))

        def finish() -> list[tuple[Tensor, float]]:
            with errors_translated():
                masks, seconds = run()
            return [(mask, seconds) for mask in masks.split(1)]

        return finish

    return launch
