"""The folder of checkpoints on this host: what is there, whether it is whole, and a network made from it."""

import hashlib
import json
import struct
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from inference.errors import LicenceNotAccepted, WeightsUnavailable
from models import build_network
from models.catalog import Checkpoint
from models.optimise import optimise


@dataclass(frozen=True)
class Record:
    """Where a checkpoint's file came from, kept beside it."""

    source: str
    sha256: str
    fetched_at: str


@dataclass(frozen=True)
class ModelsFolder:
    """`path`/<checkpoint>/<published file>, with a record of its origin and, where needed, of its licence.

    `accepted` names checkpoints whose licence is accepted by setting rather than in the folder.
    """

    path: Path
    accepted: Collection[str] = ()

    def file(self, checkpoint: Checkpoint) -> Path:
        return self.path / checkpoint.name / checkpoint.file

    def check(self, checkpoint: Checkpoint) -> None:
        """Return if the checkpoint may be used and its file is there (whether it is whole, `load` tells).

        Raises:
            LicenceNotAccepted: its terms were not accepted on this host.
            WeightsUnavailable: its file is not there.

        """
        self.require_licence(checkpoint)
        if not self.file(checkpoint).is_file():
            raise WeightsUnavailable(
                f"{checkpoint.name}: weights not downloaded; run: cutout models pull {checkpoint.name}"
            )

    def require_licence(self, checkpoint: Checkpoint) -> None:
        if not self.licence_accepted(checkpoint):
            licence = checkpoint.licence
            raise LicenceNotAccepted(
                f"{checkpoint.name}: licence {licence.name} not accepted ({licence.summary}); read {licence.url}"
                f" and run: cutout models pull {checkpoint.name} --accept-licence"
            )

    def licence_accepted(self, checkpoint: Checkpoint) -> bool:
        return (
            not checkpoint.licence.acknowledge
            or checkpoint.name in self.accepted
            or self._acceptance(checkpoint).is_file()
        )

    def accept_licence(self, checkpoint: Checkpoint) -> None:
        """Note that the user accepted the checkpoint's terms, and when."""
        note = {
            "licence": checkpoint.licence.name,
            "url": checkpoint.licence.url,
            "accepted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = self._acceptance(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(note, indent=2) + "\n")

    def _acceptance(self, checkpoint: Checkpoint) -> Path:
        return self.path / checkpoint.name / "licence-accepted.json"

    def record(self, checkpoint: Checkpoint) -> Record | None:
        path = self._record(checkpoint)
        return Record(**json.loads(path.read_text())) if path.is_file() else None

    def _record(self, checkpoint: Checkpoint) -> Path:
        return self.path / checkpoint.name / "origin.json"

    def expected_sha256(self, checkpoint: Checkpoint) -> str | None:
        """The hash the file must have: the catalogue's, or the one that the hub named at the download."""
        record = self.record(checkpoint)
        return checkpoint.sha256 or (record.sha256 if record else None)

    def verify(self, checkpoint: Checkpoint) -> str:
        """Return the file's SHA-256.

        Raises:
            WeightsUnavailable: it is not the expected one: the file was cut off or changed.

        """
        found = sha256(self.file(checkpoint))
        if found != (self.expected_sha256(checkpoint) or found):
            raise WeightsUnavailable(
                f"{checkpoint.name}: {self.file(checkpoint)} is damaged (SHA-256 differs);"
                f" run: cutout models pull {checkpoint.name}"
            )
        return found

    def install(self, checkpoint: Checkpoint, file: Path, digest: str, source: str) -> None:
        """Move a fetched, verified file to its place, from the same file system, and record its origin."""
        record = Record(source, digest, datetime.now(UTC).isoformat(timespec="seconds"))
        self._record(checkpoint).write_text(json.dumps(asdict(record), indent=2) + "\n")
        file.replace(self.file(checkpoint))

    def load(self, checkpoint: Checkpoint) -> nn.Module:
        """Build the checkpoint's network with its weights, optimised, float32, on the CPU.

        Raises:
            WeightsUnavailable: the file is missing, damaged, or holds another architecture.
            LicenceNotAccepted: its terms were not accepted on this host.

        """
        self.check(checkpoint)
        self.verify(checkpoint)
        file = self.file(checkpoint)
        network = build_network(checkpoint.name)
        try:
            if file.suffix == ".onnx":
                # An ONNX file comes with BatchNorm folded, so it fits the network as optimise leaves it.
                network = optimise(network)
                network.load_state_dict(read_onnx(file, set(network.state_dict())), strict=True)
            else:
                network.load_state_dict(safetensors.torch.load_file(file), strict=True)
                network = optimise(network)
        except (RuntimeError, safetensors.SafetensorError, struct.error, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise WeightsUnavailable(
                f"{checkpoint.name}: {file} does not hold a {checkpoint.network} network ({reason});"
                f" remove it and run: cutout models pull {checkpoint.name}"
            ) from error
        return network


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


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
