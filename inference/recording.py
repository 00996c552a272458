"""Keeps what the network returned for a photo, and gives it again in place of the network."""

import uuid

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.cuda import download, upload
from cutout.inference.errors import MasksUnusable
from cutout.inference.masked_photo import UNUSABLE, MaskedPhoto, Run
from cutout.inference.matting.pipeline import Look

# The values of a mask are kept in 16 bits, and used as they are kept. An alpha has 8.
LEVELS = 65535


class Recorder:
    """Looks with the network, and keeps what it returned."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._runs: list[tuple[int, int, Tensor | None]] = []
        self.id = uuid.uuid4().hex  # of the photo with its masks

    def look(self, rgb: Tensor) -> Tensor | None:
        """Return the network's mask, with values that are kept exactly."""
        mask = self._look(rgb)
        levels = None if mask is None else (mask.float() * LEVELS).round_().to(torch.int32)
        self._runs.append((rgb.shape[1], rgb.shape[0], levels))
        return None if levels is None else _mask_of(levels)

    def runs(self) -> tuple[Run, ...]:
        """Return the runs so far, copied to the host."""
        return tuple(
            Run(width, height, None if levels is None else download(levels[0, 0]).astype(np.uint16))
            for width, height, levels in self._runs
        )


class Replay:
    """Gives the masks of a photo in place of the network, on a device."""

    def __init__(self, photo: MaskedPhoto, device: torch.device, *, scaled: bool = False) -> None:
        """With `scaled`, what is looked at is a copy of the photo in another size."""
        self._left = iter(photo.runs)
        self._device = device
        self._scaled = scaled

    def look(self, rgb: Tensor) -> Tensor | None:
        """Return the mask of the next run.

        Raises:
            MasksUnusable: the network was shown something else, or nothing more.

        """
        run = next(self._left, None)
        if (
            self._scaled and run is None
        ):  # in another size, rounding may decide that a second look is worth it
            return None
        if run is None or not (self._scaled or (run.height, run.width) == tuple(rgb.shape[:2])):
            raise MasksUnusable(UNUSABLE)
        if run.levels is None:
            return None
        return _mask_of(upload(run.levels.astype(np.int32), self._device)[None, None])


def _mask_of(levels: Tensor) -> Tensor:
    return levels.float().div_(LEVELS)
