"""The operator's own weights: files for a network in the catalogue, each a checkpoint under a name of its own.

Each is a folder in `ModelsFolder.own` with the file and its record, which names its SHA-256 and the checkpoint that it is
like. The folder is renamed into place when it is complete, and copied to other hosts as it is.
"""

import json
import logging
import re
import shutil
import tempfile
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from cutout.inference.errors import WeightsUnavailable
from cutout.inference.weights.store import RECORD, ModelsFolder, Record, sha256
from cutout.models import catalog
from cutout.models.catalog import CHECKPOINTS, Checkpoint, Licence, PatchOrder, UnknownCheckpoint

log = logging.getLogger(__name__)

NAME = re.compile(r"[a-z0-9][a-z0-9.-]{0,40}")
NAME_RULE = (
    "a name has 1 to 41 lower-case letters, digits, dots and hyphens, and begins with a letter or digit"
)
FILE = "model.safetensors"
LICENCE = Licence(name="own", url="", summary="the terms of these weights are for you to know")
# Input sizes that BiRefNet takes, in pixels a side. IS-Net takes them too.
STEP, LEAST, MOST = 32, 256, 4096


@dataclass(frozen=True)
class Unlike:
    """What own weights do not have in common with the checkpoint that they are like; None: nothing.

    `input_size`: pixels a side of the network's input, a multiple of 32 in 256…4096. `patch_order`: see `PatchOrder`.
    """

    input_size: int | None = None
    patch_order: PatchOrder | None = None


ALIKE = Unlike()


def own_checkpoints(folder: ModelsFolder) -> dict[str, Checkpoint]:
    """Return the own weights of this host by their names. A folder without a readable record is logged and left out."""
    found = {}
    for record in sorted(folder.own.glob(f"*/{RECORD}")):
        name = record.parent.name
        if not NAME.fullmatch(name):  # such as a folder that is being made
            continue
        try:
            found[name] = _checkpoint(name, Record(**json.loads(record.read_text())))
        except (OSError, ValueError, TypeError, UnknownCheckpoint, WeightsUnavailable) as error:
            log.warning("%s cannot be used: %s; add the weights of %s again", record, error, name)
    return found


def find(folder: ModelsFolder, name: str) -> Checkpoint:
    """Return the checkpoint called `name`, of the catalogue or of this host's own weights.

    Raises:
        UnknownCheckpoint: there is none of that name.
        WeightsUnavailable: both have it, which happens when an update adds the name to the catalogue.

    """
    own = own_checkpoints(folder)
    if name not in own and name not in CHECKPOINTS:
        raise UnknownCheckpoint(name, tuple(own))
    if name in own and name in CHECKPOINTS:
        raise WeightsUnavailable(
            f"{name} is the name of your own weights and, since an update, of another checkpoint; add yours under another"
            f" name, then run: cutout models remove {name}"
        )
    return own[name] if name in own else catalog.find(name)


def add(
    folder: ModelsFolder, file: Path, name: str, like: str, unlike: Unlike = ALIKE, *, replacing: bool = False
) -> Checkpoint:
    """Copy a file of weights into `folder` as the checkpoint `name`, whole or not at all, as a safetensors file.

    It must hold the network of the checkpoint `like`, whose preprocessing and input size it takes, but for what `unlike`
    says. Nothing changes if the same file is there already under this name, like the same checkpoint.

    Raises:
        UnknownCheckpoint: the catalogue has no checkpoint `like`.
        WeightsUnavailable: the name cannot be used or is taken, the file cannot be read or holds another network, or the
            folder cannot be written. The message says what to do.

    """
    model = catalog.find(like)
    _require_usable(name)
    _require_possible(unlike, model)
    if not file.is_file():
        raise WeightsUnavailable(f"{file} is not a file; give the path of your weights, a safetensors file")
    target = folder.own / name
    try:
        folder.own.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=".adding-", dir=folder.own, ignore_cleanup_errors=True
        ) as made:
            staging = Path(made) / name
            staging.mkdir()
            copy = _copied(file, staging / FILE)
            differing = (unlike.input_size, unlike.patch_order)
            record = Record(str(file.absolute()), sha256(copy), _now(), like, *differing)
            checkpoint = _checkpoint(name, record)
            _require_fit(checkpoint, copy, file, model)
            there = own_checkpoints(folder).get(name)
            if there is not None and _same(folder, there, checkpoint):
                return there
            if target.exists() and not replacing:
                raise WeightsUnavailable(
                    f"{name} exists with other weights{_described(there)}; choose another --name, or replace them with"
                    " --replace"
                )
            (staging / RECORD).write_text(json.dumps(asdict(record), indent=2) + "\n")
            _put(staging, target, Path(made) / "replaced")
    except OSError as error:  # such as a full disk, no permission, or another `add` that was faster
        raise WeightsUnavailable(
            f"{name}: {file} cannot be copied to {folder.own} ({error.strerror}); check the permissions and the free space,"
            " or set CUTOUT_MODELS_DIR"
        ) from error
    return checkpoint


def remove(folder: ModelsFolder, name: str) -> None:
    """Remove own weights, and what was made from them.

    Raises:
        UnknownCheckpoint: there is no checkpoint of that name.
        WeightsUnavailable: it is not one of the own weights, or it cannot be removed.

    """
    target = folder.own / name
    if not (NAME.fullmatch(name) and target.is_dir()):
        if name in CHECKPOINTS:
            raise WeightsUnavailable(
                f"{name} is not one of your own checkpoints; to free its space remove {folder.path / name}"
            )
        raise UnknownCheckpoint(name, tuple(own_checkpoints(folder)))
    try:
        # Renamed first, so that a removal that is interrupted leaves no half of a checkpoint.
        with tempfile.TemporaryDirectory(
            prefix=".removing-", dir=folder.own, ignore_cleanup_errors=True
        ) as gone:
            target.rename(Path(gone) / name)
    except OSError as error:
        raise WeightsUnavailable(f"{name}: {target} cannot be removed ({error.strerror})") from error


def _checkpoint(name: str, record: Record) -> Checkpoint:
    """Return the checkpoint of own weights: all but the weights is as in the one that they are like."""
    if record.like is None:
        raise ValueError("it does not say which checkpoint the weights are like")
    model = catalog.find(record.like)
    unlike = Unlike(record.input_size, record.patch_order)
    _require_possible(unlike, model)
    return replace(
        model,
        name=name,
        file=FILE,
        sources=(),
        licence=LICENCE,
        sha256=record.sha256,
        fetch="never",
        description=f"your own weights, like {record.like}",
        like=record.like,
        input_size=unlike.input_size or model.input_size,
        patch_order=unlike.patch_order or model.patch_order,
    )


def _copied(file: Path, target: Path) -> Path:
    """Copy a file of weights to a safetensors file; a pickle's tensors are read, without running code, and written anew.

    Raises:
        WeightsUnavailable: a pickle that holds anything else than weights, or that is cut off.
        OSError: it cannot be read or written.

    """
    from cutout.inference.weights import files  # imports torch

    if file.suffix not in files.PICKLES:
        return Path(shutil.copyfile(file, target))
    try:
        files.write(files.read(file), target)
    except ValueError as error:
        raise WeightsUnavailable(
            f"{file} cannot be added: {error}; save the network's state dict with safetensors.torch.save_file, and add that"
        ) from error
    return target


def _require_possible(unlike: Unlike, model: Checkpoint) -> None:
    """Check that a network like `model` can be run so.

    Raises:
        WeightsUnavailable: it cannot.

    """
    size = unlike.input_size
    if size is not None and (size % STEP or not LEAST <= size <= MOST):
        raise WeightsUnavailable(
            f"an input size of {size} is not possible; give a multiple of {STEP} in {LEAST}…{MOST}"
        )
    order = unlike.patch_order
    if order is not None and order not in get_args(PatchOrder):
        raise WeightsUnavailable(
            f"{order!r} is no order of patches; give one of: {', '.join(get_args(PatchOrder))}"
        )
    if order is not None and model.network != "birefnet":
        raise WeightsUnavailable(
            f"{model.name} has no patches; an order of them is for a BiRefNet, such as birefnet-general"
        )


def _put(staging: Path, target: Path, old: Path) -> None:
    """Rename a folder into place. What was there, such as graphs of other weights too, becomes `old`."""
    if target.exists():
        target.rename(old)
    try:
        staging.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def _require_usable(name: str) -> None:
    if not NAME.fullmatch(name):
        raise WeightsUnavailable(f"{name!r} cannot be the name of a checkpoint; {NAME_RULE}")
    if name in CHECKPOINTS:
        raise WeightsUnavailable(
            f"{name} is a checkpoint of the catalogue; choose another --name for your own"
        )


def _require_fit(checkpoint: Checkpoint, copy: Path, file: Path, model: Checkpoint) -> None:
    from cutout.inference.weights.loader import require_fit  # imports torch

    try:
        require_fit(checkpoint, copy)
    except ValueError as error:
        raise WeightsUnavailable(
            f"{file} does not hold the network of {model.name} ({error}); give the --like of the network that was trained,"
            " and the state dict of the network itself, saved with safetensors.torch.save_file"
        ) from error


def _same(folder: ModelsFolder, there: Checkpoint, wanted: Checkpoint) -> bool:
    """Tell whether a checkpoint is the wanted one, and its file undamaged."""
    try:
        return there == wanted and folder.verify(there) == wanted.sha256
    except (OSError, WeightsUnavailable):
        return False


def _described(there: Checkpoint | None) -> str:
    return f" (SHA-256 {there.sha256[:12]}…, like {there.like})" if there and there.sha256 else ""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
