"""Files of weights: safetensors files, and pickles that hold nothing else. Reading one never runs code."""

import pickle  # nosec B403 # only its error; torch reads the file with weights_only
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from cutout.models.state_dicts import renamed

PICKLES = (".pth", ".pt", ".ckpt", ".bin")
# Under one of these, training scripts save the state dict beside that of the optimiser.
NESTED = ("model", "state_dict", "net", "params")
# What torch raises for a file that is cut off, holds more than weights, or is something else.
NO_PICKLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def read(file: Path) -> dict[str, Tensor]:
    """Read a state dict on the CPU, under the names that the networks here have.

    It is a safetensors file, or a pickle if its suffix is one of `PICKLES`.

    Raises:
        ValueError: it is neither, it is cut off, or it would run code.
        OSError: it cannot be read.

    """
    if file.suffix in PICKLES:
        return renamed(_unpickled(file))
    try:
        return renamed(safetensors.torch.load_file(file))
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file: {error}") from error


def read_shapes(file: Path) -> dict[str, Tensor]:
    """Read only the shapes of a safetensors file, as tensors on the meta device: int64, or float32 for any float type.

    Raises:
        ValueError: it is not a whole safetensors file.

    """
    state = {}
    try:
        with safetensors.safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - it is no dict
                part = tensors.get_slice(name)
                floats = part.get_dtype().startswith(("F", "BF"))
                dtype = torch.float32 if floats else torch.int64
                state[name] = torch.empty(part.get_shape(), dtype=dtype, device="meta")
    except safetensors.SafetensorError as error:
        raise ValueError(f"it is not a whole safetensors file: {error}") from error
    return renamed(state)


def write(state: Mapping[str, Tensor], file: Path) -> None:
    """Write a state dict as a safetensors file."""
    safetensors.torch.save_file({name: part.contiguous() for name, part in state.items()}, file)


def _unpickled(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except NO_PICKLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"it is no file of weights alone, or it is cut off: {reason}") from error
    if isinstance(found, dict):
        found = next((found[name] for name in NESTED if isinstance(found.get(name), dict)), found)
    parts = found.items() if isinstance(found, dict) else ()
    state = {name: part for name, part in parts if isinstance(name, str) and isinstance(part, Tensor)}
    if not state:
        raise ValueError("it holds no state dict")
    return state
