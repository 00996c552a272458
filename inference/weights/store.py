"""The models folder of this host: its checkpoint files, their licences and their checksums."""

import hashlib
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cutout.inference.errors import LicenceNotAccepted, WeightsUnavailable
from cutout.models.catalog import Checkpoint, PatchOrder

RECORD = "origin.json"


@dataclass(frozen=True)
class Record:
    """The origin of a checkpoint's file, stored next to it. `like`: see `Checkpoint`.

    `input_size` and `patch_order` of own weights are set if they are not those of the checkpoint that they are like.
    """

    source: str
    sha256: str
    fetched_at: str
    like: str | None = None
    input_size: int | None = None
    patch_order: PatchOrder | None = None


@dataclass(frozen=True)
class ModelsFolder:
    """A folder of checkpoints, each stored as `path`/<checkpoint>/<published file>; own weights are in `path`/own.

    Next to each file are a record of its origin and, if its licence requires one, a note that the user accepted it.
    `accepted` names checkpoints whose licence is accepted by a setting instead of by such a note.
    """

    path: Path
    accepted: Collection[str] = ()

    @property
    def own(self) -> Path:
        """The folder of the operator's own weights: a name there never hides one of the catalogue."""
        return self.path / "own"

    def home(self, checkpoint: Checkpoint) -> Path:
        """Return the folder of one checkpoint."""
        return (self.path if checkpoint.like is None else self.own) / checkpoint.name

    def file(self, checkpoint: Checkpoint) -> Path:
        return self.home(checkpoint) / checkpoint.file

    def check(self, checkpoint: Checkpoint) -> None:
        """Check that the checkpoint may be used and that its file exists; `verify` checks the file's content.

        Raises:
            LicenceNotAccepted: its licence was not accepted on this host.
            WeightsUnavailable: its file does not exist.

        """
        self.require_licence(checkpoint)
        if not self.file(checkpoint).is_file():
            state = "not downloaded" if checkpoint.like is None else "missing"
            raise WeightsUnavailable(f"{checkpoint.name}: weights {state}; run: {checkpoint.install_command}")

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
        """Record that the user accepted the checkpoint's licence, with the current time."""
        note = {
            "licence": checkpoint.licence.name,
            "url": checkpoint.licence.url,
            "accepted_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        path = self._acceptance(checkpoint)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(note, indent=2) + "\n")

    def _acceptance(self, checkpoint: Checkpoint) -> Path:
        return self.home(checkpoint) / "licence-accepted.json"

    def record(self, checkpoint: Checkpoint) -> Record | None:
        path = self._record(checkpoint)
        return Record(**json.loads(path.read_text())) if path.is_file() else None

    def _record(self, checkpoint: Checkpoint) -> Path:
        return self.home(checkpoint) / RECORD

    def expected_sha256(self, checkpoint: Checkpoint) -> str | None:
        """Return the SHA-256 that the file must have: the catalogue's, or else the one recorded at the download."""
        record = self.record(checkpoint)
        return checkpoint.sha256 or (record.sha256 if record else None)

    def verify(self, checkpoint: Checkpoint) -> str:
        """Return the file's SHA-256.

        Raises:
            WeightsUnavailable: the SHA-256 is not the expected one: the file was truncated or changed.

        """
        found = sha256(self.file(checkpoint))
        if found != (self.expected_sha256(checkpoint) or found):
            raise WeightsUnavailable(
                f"{checkpoint.name}: {self.file(checkpoint)} is damaged (SHA-256 differs);"
                f" run: {checkpoint.install_command}"
            )
        return found

    def install(self, checkpoint: Checkpoint, file: Path, digest: str, source: str) -> None:
        """Move a downloaded, verified file from the same file system into place, and record its origin."""
        record = Record(source, digest, datetime.now(UTC).isoformat(timespec="seconds"))
        self._record(checkpoint).write_text(json.dumps(asdict(record), indent=2) + "\n")
        file.replace(self.file(checkpoint))


def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
