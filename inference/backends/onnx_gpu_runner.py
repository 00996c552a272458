"""Runs a network's ONNX graph on a GPU: in ONNX Runtime's CUDA kernels, or in TensorRT through ONNX Runtime.

ONNX Runtime falls back to the CPU without an error in three places: when the GPU's provider cannot be loaded, for single
operators that it has no kernel for, and when a run fails. Each of them is an error here.
"""

import importlib.util
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cutout.inference.backends.cuda import LOST, MEMORY_FULL, errors_translated, wait_for
from cutout.inference.backends.malloc import give_back_freed
from cutout.inference.cores import network_threads
from cutout.inference.errors import CutoutError, DeviceLost, DeviceUnavailable, NetworkFailed, OutOfMemory

log = logging.getLogger(__name__)

Library = Literal["onnxruntime", "tensorrt"]
EXTRA = "gpu-onnx"  # of pyproject.toml
# The libraries of TensorRT that ONNX Runtime loads have this version in their names.
TENSORRT = "tensorrt-cu13<11"
PROVIDERS: dict[Library, str] = {
    "onnxruntime": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
ON_CPU = "CPUExecutionProvider"
# Operators that may run on the CPU: with a batch of any size, a few compute the shapes of others.
OF_SHAPES = frozenset(
    {"Add", "Cast", "Concat", "Constant", "ConstantOfShape", "Div", "Equal", "Expand", "Floor", "Gather"}
    | {"Identity", "Mul", "Range", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Sub"}
    | {"Unsqueeze", "Where"}
)


class SessionStream:
    """The CUDA stream of a session; on the CPU, nothing.

    A session keeps to the stream that it was opened with, and takes torch's default stream, whose number is 0, for none.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    @property
    def number(self) -> str:
        """Return the stream's address for ONNX Runtime's option `user_compute_stream`."""
        return str(self._stream.cuda_stream) if self._stream else ""

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let what is queued on this stream meanwhile wait for the current stream, and what comes after it wait for this.

        The current stream therefore reuses the memory of the session's tensors only after the session's work.
        """
        if self._stream is None:
            yield
            return
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            yield
        finally:
            current.wait_stream(self._stream)


class OnnxGpuRunner:
    """Runs a graph of `export_for_gpu` on a GPU, straight from and to torch's tensors there.

    On the CPU, it does the same without streams, so that there is one code path to test.
    """

    def __init__(
        self,
        graph: Path,
        library: Library,
        device: torch.device,
        *,
        input_size: int,
        batch_sizes: Sequence[int],
        engines: Path | None = None,
    ) -> None:
        """Open `graph` for batches of `batch_sizes`. TensorRT keeps what it has built in the folder `engines`.

        Raises:
            DeviceUnavailable: ONNX Runtime cannot run all of the graph on the device; the message says what to do.
            OutOfMemory: the weights do not fit into the GPU's memory.

        """
        self.device = device
        self.backend = f"{library}-{device.type}"
        self._sizes = sorted(batch_sizes)
        self._number = torch.cuda.current_device() if device.type == "cuda" else 0
        self._stream = SessionStream(device)
        self._session = open_session(graph, library, self._providers(library, input_size, engines))
        self._settings = _onnxruntime(library).RunOptions()
        # The GPU's work is only queued, as in the other runners; the streams keep the order.
        self._settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
        give_back_freed()

    @torch.inference_mode()
    def run(self, pixels: Tensor) -> Tensor:
        logits = self.logits(pixels)
        # An infinite logit is an overflow; its sigmoid would look like a mask.
        return torch.where(logits.isfinite(), logits.sigmoid(), torch.nan)

    @torch.inference_mode()
    def warm_up(self, input_size: int) -> None:
        """Run every batch size once: libraries choose their kernels for each."""
        pixels = torch.zeros(max(self._sizes), 3, input_size, input_size, device=self.device)
        for size in reversed(self._sizes.copy()):
            try:
                self.run(pixels[:size])
                with errors_translated():
                    wait_for(self.device)
            except OutOfMemory:
                if size == min(self._sizes):
                    raise
                self._sizes.remove(size)

    def logits(self, pixels: Tensor) -> Tensor:
        """Return the logits, float32 [B,1,S,S], of pixels, float32 [B,3,S,S], both on `device`."""
        with _errors_of_onnxruntime(self.device):
            parts = [self._run_graph(part) for part in pixels.split(self._sizes[-1])]
            return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _run_graph(self, pixels: Tensor) -> Tensor:
        """Run the graph on up to as many photos as the largest batch has, filled up with zeros to the next size."""
        count, size = len(pixels), pixels.shape[-1]
        batch = next(fitting for fitting in self._sizes if fitting >= count)
        if count < batch:
            pixels = torch.cat((pixels, pixels.new_zeros(batch - count, *pixels.shape[1:])))
        pixels = pixels.contiguous()
        logits = torch.empty(batch, 1, size, size, device=self.device)
        binding = self._session.io_binding()
        for bind, name, tensor in (
            (binding.bind_input, "pixels", pixels),
            (binding.bind_output, "logits", logits),
        ):
            bind(name, self.device.type, self._number, np.float32, tuple(tensor.shape), tensor.data_ptr())
        with self._stream.in_turn():
            self._session.run_with_iobinding(binding, self._settings)
        return logits[:count]

    def _providers(
        self, library: Library, input_size: int, engines: Path | None
    ) -> list[tuple[str, dict[str, str]]]:
        """Return the providers in the order of preference, with their options."""
        if self.device.type == "cpu":
            return [(ON_CPU, {})]
        common = {
            "device_id": str(self._number),
            "user_compute_stream": self._stream.number,
        }
        cuda = {**common, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"}
        if library == "onnxruntime":
            return [(PROVIDERS["onnxruntime"], cuda)]
        return [
            (PROVIDERS["tensorrt"], {**common, **tensorrt_options(input_size, self._sizes[-1], engines)}),
            (PROVIDERS["onnxruntime"], cuda),  # for operators that TensorRT does not know
        ]


def tensorrt_options(input_size: int, most: int, engines: Path | None) -> dict[str, str]:
    """Return the options of TensorRT's provider for batches of 1 to `most`, which is the size that it is tuned for."""
    options = {"trt_fp16_enable": "1", "trt_layer_norm_fp32_fallback": "1"}
    for bound, batch in (("min", 1), ("opt", most), ("max", most)):
        options[f"trt_profile_{bound}_shapes"] = f"pixels:{batch}x3x{input_size}x{input_size}"
    if engines is not None:
        for cache in ("engine", "timing"):
            options |= {f"trt_{cache}_cache_enable": "1", f"trt_{cache}_cache_path": str(engines)}
    return options


def why_not(library: Library) -> str | None:
    """Return the reason why a library cannot be used on a GPU of this host, or None; sessions may find others."""
    try:
        _require_provider(library)
    except DeviceUnavailable as error:
        return str(error)
    return None


def _onnxruntime(library: Library) -> Any:
    """Import ONNX Runtime, and load TensorRT's libraries, which it looks for among those that are loaded."""
    try:
        import onnxruntime
    except ImportError as error:
        raise DeviceUnavailable(
            f"CUTOUT_GPU_BACKEND={library} needs ONNX Runtime for GPUs; run: pip install 'cutout-server[{EXTRA}]',"
            " or set CUTOUT_GPU_BACKEND=torch."
        ) from error
    if library == "tensorrt" and importlib.util.find_spec("tensorrt_libs"):
        importlib.import_module("tensorrt_libs")
    return onnxruntime


def _require_provider(library: Library) -> None:
    if PROVIDERS[library] not in _onnxruntime(library).get_available_providers():
        raise DeviceUnavailable(
            f"This build of ONNX Runtime has no {PROVIDERS[library]}; run: pip uninstall onnxruntime onnxruntime-gpu"
            f" && pip install 'cutout-server[{EXTRA}]', or set CUTOUT_GPU_BACKEND=torch."
        )


def open_session(graph: Path, library: Library, providers: list[tuple[str, dict[str, str]]]) -> Any:
    """Open a session with the first of `providers`, and check that it runs there.

    Raises:
        DeviceUnavailable, OutOfMemory: see `OnnxGpuRunner`.

    """
    onnxruntime, provider = _onnxruntime(library), providers[0][0]
    if provider != ON_CPU:
        _require_provider(library)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # log errors only
    options.enable_mem_pattern = False  # as in `OnnxRunner`
    options.intra_op_num_threads = network_threads()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if (code := _code_of(error)) is not None or _is_memory(error):
            raise _translated(error, code) from error
        raise DeviceUnavailable(_not_started(library, provider, _first_line(error))) from error
    session.disable_fallback()  # of runs that fail
    if session.get_providers()[0] != provider:
        raise DeviceUnavailable(_not_started(library, provider, "it fell back to the CPU"))
    _check_places(session, library, provider)
    return session


def _not_started(library: Library, provider: str, reason: str) -> str:
    needs = "the libraries of CUDA 13 and cuDNN 9, which torch brings along"
    if library == "tensorrt":
        needs += f", and TensorRT 10 (pip install '{TENSORRT}')"
    return (
        f"ONNX Runtime could not start its {provider} ({reason}). It needs {needs}."
        " Install them, or set CUTOUT_GPU_BACKEND=torch."
    )


def _check_places(session: Any, library: Library, provider: str) -> None:
    """Raise DeviceUnavailable if operators run on the CPU, or none by `provider`: both only make a session slow."""
    places: dict[str, set[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        places.setdefault(part.ep_name, set()).update(node.op_type for node in part.get_nodes())
    if not places.get(provider):
        raise DeviceUnavailable(
            f"{provider} runs none of the network's operators here. Set CUTOUT_GPU_BACKEND=torch."
        )
    if provider == ON_CPU:
        return
    if slow := sorted(places.get(ON_CPU, set()) - OF_SHAPES):
        raise DeviceUnavailable(
            f"CUTOUT_GPU_BACKEND={library} would run {', '.join(slow)} on the CPU: this version of ONNX Runtime has no"
            " GPU kernels for these. Set CUTOUT_GPU_BACKEND=torch."
        )


@contextmanager
def _errors_of_onnxruntime(device: torch.device) -> Iterator[None]:
    """Translate ONNX Runtime's errors, which are no RuntimeErrors, and torch's into the engine's own.

    Raises:
        OutOfMemory, DeviceLost, NetworkFailed: see `errors_translated`.

    """
    with errors_translated():
        try:
            yield
        except (CutoutError, RuntimeError):
            raise
        except Exception as error:
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            code = _code_of(error)
            if code is None and not _is_memory(error):
                wait_for(device)  # raises if the device is lost
            raise _translated(error, code) from error


def _code_of(error: Exception) -> int | None:
    """Return the number of the CUDA error that an error of ONNX Runtime tells of."""
    found = re.search(r"CUDA (?:failure|error) (\d+)", str(error))
    return int(found[1]) if found else None


def _is_memory(error: Exception) -> bool:
    text = str(error)
    return "Failed to allocate memory" in text or "_ALLOC_FAILED" in text or _code_of(error) == MEMORY_FULL


def _translated(error: Exception, code: int | None) -> CutoutError:
    if _is_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # torch keeps freed memory, which ONNX Runtime cannot use
        return OutOfMemory(
            "The GPU's memory is full. Set a smaller CUTOUT_BATCH_SIZE or CUTOUT_MEGAPIXELS_IN_WORK, or free some GPU"
            " memory (see nvidia-smi)."
        )
    if code in LOST:
        return DeviceLost(f"The GPU has failed ({_first_line(error)}). Check nvidia-smi and restart Cutout.")
    return NetworkFailed(f"The GPU could not process this photo ({_first_line(error)}). Try again.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
