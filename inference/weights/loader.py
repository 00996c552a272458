"""Loading of a checkpoint's file, safetensors, ONNX or a pickle of weights, into a network that is ready to run."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights import files
from cutout.inference.weights.store import ModelsFolder
from cutout.models import build_network
from cutout.models.catalog import CHECKPOINTS, Checkpoint
from cutout.models.optimise import optimise
from cutout.models.state_dicts import depths_of
from cutout.models.swin import SIZES

NAMED = 3  # tensors at fault in a message, of each kind


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
        network = build_network(checkpoint)
    try:
        if file.suffix == ".onnx":
            # BatchNorm is already folded in an ONNX file, so its weights fit the network only after optimise.
            network = optimise(network)
            _fill(network, read_onnx(file, list(network.state_dict())))
        else:
            _fill(network, files.read(file))
            network = optimise(network.float())
    except (struct.error, ValueError) as error:
        raise WeightsUnavailable(
            f"{checkpoint.name}: {file} does not contain the {checkpoint.network} network ({error});"
            f" remove it and run: {checkpoint.install_command}"
        ) from error
    return network


def require_fit(checkpoint: Checkpoint, file: Path) -> None:
    """Check that a safetensors file holds all tensors of the checkpoint's network, in their shapes. Reads only its header.

    Raises:
        ValueError: it does not; the message names the first tensors at fault, and the checkpoints whose network it is, if
            there are any. Or the file is no safetensors file.

    """
    with torch.device("meta"):
        network = build_network(checkpoint)
    state = files.read_shapes(file)
    try:
        _require_same(network.state_dict(), _shapes(state))
    except ValueError as error:
        raise ValueError(f"{error}{_told_depth(checkpoint, state)}") from None


# The blocks of each stage of a backbone, and the channels of the first.
Backbone = tuple[tuple[int, ...], int]


def _told_depth(checkpoint: Checkpoint, state: Mapping[str, Tensor]) -> str:
    """Tell which backbone a BiRefNet's weights have, if another than the checkpoint's, and which checkpoints have it."""
    first, depths = state.get("bb.patch_embed.proj.weight"), depths_of(state)
    wanted = _backbone(checkpoint)
    if wanted is None or first is None or not first.dim() or not depths:
        return ""
    found = (depths, first.shape[0])
    if found == wanted:
        return ""
    told = f"; its backbone has {_blocks(found)} instead of {_blocks(wanted)}, "
    fitting = [other.name for other in CHECKPOINTS.values() if _backbone(other) == found]
    if not fitting:
        return told + "which no checkpoint of the catalogue has"
    return told + f"as has that of --like {' or '.join(fitting)}"


def _backbone(checkpoint: Checkpoint) -> Backbone | None:
    size = SIZES.get(checkpoint.backbone)
    return (checkpoint.depths or size.depths, size.width) if size else None


def _blocks(backbone: Backbone) -> str:
    depths, width = backbone
    return f"{'-'.join(map(str, depths))} blocks from {width} channels"


def _fill(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load all weights into a network.

    Raises:
        ValueError: the weights do not fit the network; the message names some of the tensors at fault.

    """
    _require_same(network.state_dict(), _shapes(state))
    network.load_state_dict(state, assign=True)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Return the shape of each tensor, and whether it is of floating-point numbers."""
    return {name: (tuple(part.shape), part.is_floating_point()) for name, part in state.items()}


def _require_same(expected: Mapping[str, Tensor], found: Mapping[str, tuple[tuple[int, ...], bool]]) -> None:
    """Compare tensors with the shapes of others, and whether those are of floating-point numbers.

    Raises:
        ValueError: they differ; the message names the first tensors at fault of each kind.

    """
    both = [name for name in expected if name in found]
    shapes = {name: (tuple(expected[name].shape), found[name][0]) for name in both}
    faults = {
        "missing": [name for name in expected if name not in found],
        "unknown": [name for name in found if name not in expected],
        "with another shape": [
            f"{name} ({_shape(has)} instead of {_shape(wants)})"
            for name, (wants, has) in shapes.items()
            if has != wants
        ],
        "with another type": [name for name in both if expected[name].is_floating_point() != found[name][1]],
    }
    told = [
        f"{len(names)} {fault}, such as {', '.join(sorted(names)[:NAMED])}"
        for fault, names in faults.items()
        if names
    ]
    if told:
        raise ValueError(f"of {len(expected)} tensors " + "; ".join(told))


def _shape(sides: tuple[int, ...]) -> str:
    return "×".join(map(str, sides)) or "a number"


def read_onnx(file: Path, wanted: Sequence[str]) -> dict[str, Tensor]:
    """Read the weights of an ONNX graph's convolutions as a state dict, float32.

    A graph tells in one of three ways which module a convolution is. Its node is named after the module, as in
    "/stage1/rebnconvin/conv_s1/Conv" for `stage1.rebnconvin.conv_s1`; its weights are; or, where an older exporter
    folded BatchNorm into them, neither is: then the convolutions are in the order of the modules. Only keys in
    `wanted`, which are in that order, are returned.

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
    sources: dict[str, str] = {}  # by key, the name of its tensor
    nameless: list[str] = []
    for node in graph.node:
        if node.op_type != "Conv":
            continue
        module = node.name.strip("/").removesuffix("/Conv").replace("/", ".")
        weights = [name for name in node.input[1:] if name in tensors]
        if f"{module}.weight" in wanted:
            sources |= zip((f"{module}.weight", f"{module}.bias"), weights, strict=False)
        elif weights and weights[0] in wanted:
            sources |= {name: name for name in weights}
        elif node.name.startswith("Conv_"):
            nameless += weights
    sources |= zip((key for key in wanted if key not in sources), nameless, strict=False)
    return {
        key: torch.from_numpy(onnx.numpy_helper.to_array(tensors[name]).astype("float32"))
        for key, name in sources.items()
        if key in wanted
    }
