"""Loading of a checkpoint's file, safetensors or ONNX, into a network that is ready to run."""

import struct
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights.store import ModelsFolder
from cutout.models import build_network
from cutout.models.catalog import Checkpoint
from cutout.models.optimise import optimise


def load_network(checkpoint: Checkpoint, folder: ModelsFolder) -> nn.Module:
    """Build the checkpoint's network and load its weights: optimised, on the CPU, always in float32.

    Raises:
        WeightsUnavailable: the file is missing, damaged, or holds another architecture.
        LicenceNotAccepted: its licence was not accepted on this host.

    """
    folder.check(checkpoint)
    folder.verify(checkpoint)
    file = folder.file(checkpoint)
    with torch.device("meta"):  # allocate no memory: the tensors of the file are used
        network = build_network(checkpoint.name)
    try:
        if file.suffix == ".onnx":
            # BatchNorm is already folded in an ONNX file, so its weights fit the network only after optimise.
            network = optimise(network)
            _fill(network, read_onnx(file, set(network.state_dict())))
        else:
            _fill(network, safetensors.torch.load_file(file))
            network = optimise(network.float())
    except (safetensors.SafetensorError, struct.error, ValueError) as error:
        raise WeightsUnavailable(
            f"{checkpoint.name}: {file} does not contain the {checkpoint.network} network ({error});"
            f" remove it and run: cutout models pull {checkpoint.name}"
        ) from error
    return network


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load all weights into a network.

    Raises:
        ValueError: the weights do not fit the network; the message names some of the tensors at fault.

    """
    expected = network.state_dict()
    missing, unknown = expected.keys() - state.keys(), state.keys() - expected.keys()
    both = [(name, expected[name], state[name]) for name in expected.keys() & state.keys()]
    other = {name for name, want, found in both if want.shape != found.shape}
    quantised = {name for name, want, found in both if want.is_floating_point() != found.is_floating_point()}
    faults = [
        f"{len(names)} {what}, such as {min(names)}"
        for what, names in (
            ("missing", missing),
            ("unknown", unknown),
            ("with another shape", other),
            ("with another type", quantised),
        )
        if names
    ]
    if faults:
        raise ValueError(f"of {len(expected)} tensors " + "; ".join(faults))
    network.load_state_dict(state, assign=True)


def read_onnx(file: Path, wanted: set[str]) -> dict[str, Tensor]:
    """Read the weights of an ONNX graph's convolutions as a state dict, float32.

    Exported graphs name a node after its module: "/stage1/rebnconvin/conv_s1/Conv" is the convolution
    `stage1.rebnconvin.conv_s1`. Only the keys in `wanted` are returned.

    Raises:
        ValueError: the file is not an ONNX graph.

    """
    import onnx  # may not be installed on hosts that only load safetensors
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(file).graph
    except DecodeError as error:
        raise ValueError("not an ONNX file") from error
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    state: dict[str, Tensor] = {}
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        module = node.name.strip("/").removesuffix("/Conv").replace("/", ".")
        for leaf, name in zip(("weight", "bias"), node.input[1:], strict=False):
            if f"{module}.{leaf}" in wanted and name in tensors:
                array = onnx.numpy_helper.to_array(tensors[name])
                state[f"{module}.{leaf}"] = torch.from_numpy(array.astype("float32"))
    return state
