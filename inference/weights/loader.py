"""A checkpoint's file, safetensors or ONNX, turned into a network that is ready to run."""

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
    """Build the checkpoint's network with its weights, optimised, on the CPU, in float32 whatever was published.

    Raises:
        WeightsUnavailable: the file is missing, damaged, or holds another architecture.
        LicenceNotAccepted: its terms were not accepted on this host.

    """
    folder.check(checkpoint)
    folder.verify(checkpoint)
    file = folder.file(checkpoint)
    with torch.device("meta"):  # without memory: the file brings its own
        network = build_network(checkpoint.name)
    try:
        if file.suffix == ".onnx":
            # An ONNX file comes with BatchNorm folded, so it fits the network as optimise leaves it.
            network = optimise(network)
            _fill(network, read_onnx(file, set(network.state_dict())))
        else:
            _fill(network, safetensors.torch.load_file(file))
            network = optimise(network.float())
    except (safetensors.SafetensorError, struct.error, ValueError) as error:
        raise WeightsUnavailable(
            f"{checkpoint.name}: {file} does not hold the {checkpoint.network} network ({error});"
            f" remove it and run: cutout models pull {checkpoint.name}"
        ) from error
    return network


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a network its weights, all of them.

    Raises:
        ValueError: they are another network's; the message says by which tensors that shows.

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
            ("of another shape", other),
            ("of another type", quantised),
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
        ValueError: the file is no ONNX graph.

    """
    import onnx  # not needed, and not there, on hosts that load safetensors
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
