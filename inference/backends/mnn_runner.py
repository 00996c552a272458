"""Runs a converted network in MNN, on some processors the fastest library for IS-Net."""

import ctypes
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.backends.mnn_export import GRAPH, MnnFailed
from cutout.inference.cores import network_threads
from cutout.inference.errors import OutOfMemory

log = logging.getLogger(__name__)

OUT_OF_MEMORY = 1  # MNN's code for it
_one_at_a_time = threading.Lock()


class MnnRunner:
    """Runs a network that `mnn_export` has converted, one photo at a time, on as many threads as the process may use."""

    backend = "mnn-cpu"

    def __init__(self, folder: Path) -> None:
        """Load the converted network in `folder`. This does MNN's one-time work, 1 to 2 s for IS-Net.

        Raises:
            MnnFailed: MNN, or the network in it, cannot be loaded.

        """
        self.device = torch.device("cpu")
        said: list[str] = []
        try:
            with prints_kept(said):
                self._load(folder)
        except Exception as error:
            raise MnnFailed(f"{error} {' '.join(said)}".strip()) from error
        log.debug("MNN printed: %s", said)
        give_back_freed()

    def _load(self, folder: Path) -> None:
        # Never `MNN.tools`: see mnn_export.
        import MNN

        self._mnn: Any = MNN
        # Of MNN's two interfaces, `MNN.nn` would let no other Python thread run beside the network.
        self._network = MNN.Interpreter(str(folder / GRAPH))
        # "high" is float32 throughout; otherwise MNN may use bfloat16.
        config = {"backend": "CPU", "precision": "high", "numThread": network_threads()}
        self._session = self._network.createSession(config)
        self._input = self._network.getSessionInput(self._session)
        self._output = self._network.getSessionOutput(self._session)
        self._shape = tuple(self._input.getShape())

    def run(self, pixels: Tensor) -> Tensor:
        return torch.cat([self.logits(photo) for photo in pixels.split(1)]).sigmoid_()

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size))

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 [1,1,S,S], of one photo's pixels, float32 [1,3,S,S]."""
        if tuple(pixels.shape) != self._shape:
            raise ValueError(f"This network takes {self._shape}, not {tuple(pixels.shape)}.")
        self._input.copyFrom(self._tensor(pixels.contiguous().numpy()))
        code = self._network.runSession(self._session)
        if code == OUT_OF_MEMORY:
            raise OutOfMemory("The host's memory is too small for this network.")
        if code:
            raise RuntimeError(f"MNN failed with code {code}.")
        result = self._tensor(np.empty(self._output.getShape(), np.float32))
        self._output.copyToHostTensor(result)
        # Copied, because the array is MNN's memory and does not keep it alive.
        return torch.from_numpy(result.getNumpyData().copy())

    def _tensor(self, values: np.ndarray[Any, Any]) -> Any:
        """Return a tensor of MNN's in the layout of torch and numpy, with a copy of `values`."""
        kind, layout = self._mnn.Halide_Type_Float, self._mnn.Tensor_DimensionType_Caffe
        return self._mnn.Tensor(values.shape, kind, values, layout)


@contextmanager
def prints_kept(said: list[str]) -> Iterator[None]:
    """Append to `said` the lines that C code prints meanwhile, so that they do not reach the process's stdout.

    While MNN is loaded, it prints about the processor with C's `printf`, which would end up in the picture that
    `cutout remove` writes there. This exchanges the C library's own `stdout`, which is a variable. The file
    descriptor, to which Python writes, stays as it is: redirecting that would lose what other threads write meanwhile.
    """
    libc = ctypes.CDLL(None)
    libc.open_memstream.restype = ctypes.c_void_p
    stdout = ctypes.c_void_p.in_dll(libc, "stdout")
    buffer, size = ctypes.c_void_p(), ctypes.c_size_t()
    with _one_at_a_time:
        before, stream = stdout.value, libc.open_memstream(ctypes.byref(buffer), ctypes.byref(size))
        stdout.value = stream or before
        try:
            yield
        finally:
            stdout.value = before
            if stream:
                libc.fclose(ctypes.c_void_p(stream))
                said += ctypes.string_at(buffer, size.value).decode(errors="replace").splitlines()
                libc.free(buffer)
