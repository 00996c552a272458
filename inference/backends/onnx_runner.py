"""Runs a network's ONNX graph in ONNX Runtime on the CPU; for GPUs see `onnx_gpu_runner`."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.cores import network_threads


class OnnxRunner:
    """Runs a network's ONNX graph in ONNX Runtime on the CPU."""

    def __init__(self, graph: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # log errors only
        # The memory pattern is a plan of all activations, made in the first run and allocated in the second in
        # addition to them. For IS-Net it would cost 500 MB and save no time.
        options.enable_mem_pattern = False
        # By itself, ONNX Runtime reads neither OMP_NUM_THREADS nor the quota of a container.
        options.intra_op_num_threads = network_threads()
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        give_back_freed()
        self.backend = "onnxruntime-cpu"
        self.device = torch.device("cpu")
        self._batch = int(self._session.get_inputs()[0].shape[0])  # the graph accepts only this batch size

    def run(self, pixels: Tensor) -> Tensor:
        return self.logits(pixels).sigmoid_()

    def warm_up(self, input_size: int) -> None:
        self.run(torch.zeros(1, 3, input_size, input_size, device=self.device))

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 [B,1,S,S], of pixels, float32 [B,3,S,S]."""
        return torch.cat([self._run_graph(part) for part in pixels.split(self._batch)])

    def _run_graph(self, pixels: Tensor) -> Tensor:
        """Run the graph directly on the tensors' memory."""
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
        self._session.run_with_iobinding(binding)
        return logits[:count]
