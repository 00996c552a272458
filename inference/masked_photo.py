"""A photo and the masks that a network made of it, kept so that it can be cut out again without the network.

Cutting out is deterministic: with the same masks, the same photo and the same options the result is the same. What the
network is shown depends on the photo, its region, the box and the largest size alone; all other options may differ.
"""

import io
import json
import uuid
import zipfile
import zlib
from dataclasses import asdict, dataclass, field

import numpy as np
import numpy.typing as npt
from isal import isal_zlib

from cutout.inference.errors import MasksUnusable

UNUSABLE = (
    "What the network saw in this photo was kept by another version of Cutout and cannot be used again. Send the photo"
    " again."
)
PHOTO, ABOUT = "photo", "about.json"
# What reading a damaged file raises. `zipfile` takes damaged flags for features that it lacks, or for encryption.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError,
)  # fmt: skip

Levels = npt.NDArray[np.uint16]


@dataclass(frozen=True)
class Maker:
    """What made a photo's masks: the checkpoint, whether it stands in for the preferred one, and the backend."""

    checkpoint: str
    substitute: bool
    backend: str


@dataclass(frozen=True)
class Run:
    """One run of the network: the size in pixels of the picture that it was shown, and its mask.

    `levels`, uint16 [h,w] of 0…65535, is None if it found no subject.
    """

    width: int
    height: int
    levels: Levels | None = field(repr=False)


@dataclass(frozen=True)
class MaskedPhoto:
    """A photo, the bytes of its file, and the runs of the network on it, in their order; `id` is of no other one."""

    photo: bytes = field(repr=False)
    runs: tuple[Run, ...]
    maker: Maker
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def to_bytes(self) -> bytes:
        """Return all of it as the bytes of one file, a ZIP; `from_bytes` reads it."""
        file = io.BytesIO()
        shapes = [None if run.levels is None else run.levels.shape for run in self.runs]
        runs = [
            {"width": run.width, "height": run.height, "shape": shape}
            for run, shape in zip(self.runs, shapes, strict=True)
        ]
        with zipfile.ZipFile(file, "w") as packed:
            packed.writestr(ABOUT, json.dumps({"id": self.id, "maker": asdict(self.maker), "runs": runs}))
            packed.writestr(PHOTO, self.photo)
            for number, run in enumerate(self.runs):
                if run.levels is not None:
                    # All high bytes, then all low ones: the high ones of an area are alike.
                    both = np.stack([run.levels >> 8, run.levels & 255]).astype(np.uint8)
                    # In 2 ms; the ZIP's own compression takes 20 for the same size.
                    packed.writestr(str(number), isal_zlib.compress(both.tobytes(), 1))
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "MaskedPhoto":
        """Read what `to_bytes` wrote.

        Raises:
            MasksUnusable: the bytes are not such a file.

        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                about = json.loads(packed.read(ABOUT))
                runs = []
                for number, run in enumerate(about["runs"]):
                    levels = None
                    if run["shape"] is not None:
                        both = np.frombuffer(zlib.decompress(packed.read(str(number))), np.uint8)
                        both = both.reshape(2, *run["shape"])
                        levels = both[0].astype(np.uint16) << 8 | both[1]
                    runs.append(Run(run["width"], run["height"], levels))
                return cls(packed.read(PHOTO), tuple(runs), Maker(**about["maker"]), about["id"])
        except DAMAGED as error:
            raise MasksUnusable(UNUSABLE) from error


def photo_in(data: bytes) -> bytes:
    """Return the bytes of the photo's file from those that `MaskedPhoto.to_bytes` wrote, without reading its masks.

    Raises:
        MasksUnusable: the bytes are not such a file.

    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            return packed.read(PHOTO)
    except DAMAGED as error:
        raise MasksUnusable(UNUSABLE) from error


@dataclass(frozen=True)
class View:
    """A photo with masks whose result is only to be looked at: the photo is scaled down to at most `most_pixels` first.

    The picture is like the result in full size, but it is not that result scaled down, bit for bit.
    """

    photo: MaskedPhoto
    most_pixels: int


# The bytes of a photo; or a photo with masks, for which no network is run.
Source = bytes | MaskedPhoto
AnySource = Source | View
