"""Runs a network's ONNX graph in ONNX Runtime."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.cuda import wait_for
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.cores import network_threads
from cutout.inference.errors import DeviceUnavailable


class OnnxRunner:
    """Runs a network's ONNX graph in ONNX Runtime.

    It is an error if the requested provider is not active. ONNX Runtime itself would silently fall back to the CPU,
    which is many times slower.
    """

    def __init__(self, graph: Path, device: Literal["cuda", "cpu"] = "cpu") -> None:
        import onnxruntime

        provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
        if provider not in onnxruntime.get_available_providers():
            raise DeviceUnavailable(
                f"This build of ONNX Runtime has no {provider}; install onnxruntime-gpu, or set CUTOUT_DEVICE=cpu."
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # log errors only
        # The memory pattern is a plan of all activations, made in the first run and allocated in the second in
        # addition to them. For IS-Net it would cost 500 MB and save no time.
        options.enable_mem_pattern = False
        # By itself, ONNX Runtime reads neither OMP_NUM_THREADS nor the quota of a container.
        options.intra_op_num_threads = network_threads()
        self._session = onnxruntime.InferenceSession(graph, options, providers=[provider])
        if self._session.get_providers()[0] != provider:
            raise DeviceUnavailable(
                f"ONNX Runtime could not start its {provider}; check the driver and the CUDA libraries"
                " with nvidia-smi, or set CUTOUT_DEVICE=cpu."
            )
        give_back_freed()
        self.backend = f"onnxruntime-{device}"
        self.device = torch.device(device)
        self._batch = int(self._session.get_inputs()[0].shape[0])  # the graph accepts only this batch size

    def run(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels).sigmoid_()

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 [B,1,S,S], of pixels, float32 [B,3,S,S], both on `device`."""
        return torch.cat([self._run_graph(part) for part in pixels.split(self._batch)])

    def _run_graph(self, pixels: Tensor) -> Tensor:
        """Run the graph directly on the tensors' memory, so that on a GPU nothing is copied through the host."""
        count, size = len(pixels), pixels.shape[-1]
        if count < self._batch:
            pixels = torch.cat([pixels, pixels.new_zeros(self._batch - count, *pixels.shape[1:])])
        pixels = pixels.contiguous()
        logits = torch.empty(self._batch, 1, size, size, device=self.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "pixels", pixels),
            (binding.bind_output, "logits", logits),
        ):
            bind(name, self.device.type, 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        wait_for(self.device)  # ONNX Runtime uses its own stream, which does not wait for ours
        self._session.run_with_iobinding(binding)
        return logits[:count]
