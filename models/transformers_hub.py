"""Both networks as transformers models: `from_pretrained` takes a hub id or a folder and runs no remote code.

    from cutout.models.transformers_hub import from_pretrained
    network = from_pretrained("ZhengPeng7/BiRefNet")
    mask = network(pixels).logits.sigmoid()

The published `config.json` files name another architecture or none, and ask for code from their
repositories. Therefore the class is detected from the names of the weights, and this module never runs that
code (the Auto classes still do if told to trust a published repository). The output of `save_pretrained`
names its model type, so the Auto classes can load it.
"""

import re
from pathlib import Path
from typing import Any, Self, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageSegmentation,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SemanticSegmenterOutput
from transformers.utils.hub import cached_file

from cutout.models.birefnet import BiRefNet
from cutout.models.catalog import PatchOrder
from cutout.models.isnet import ISNet
from cutout.models.state_dicts import NOBG, depths_of, renamed
from cutout.models.swin import SIZES

WEIGHTS = "model.safetensors"
Shapes = dict[str, list[int]]
CONFIGURED = ("backbone", "patch_order", "depths")
# The options of from_pretrained that locate the file, as opposed to those that configure the model.
WHERE = {"cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token"}


class NotLoaded(OSError):
    """A model could not be loaded. The message names the model, the reason and the fix in one line."""


class MatteModel(PreTrainedModel):
    """Base class of both models: pixels float [B,3,H,W] → `logits` [B,1,H,W], whose sigmoid is the mask.

    The pixels must be normalised as the checkpoint specifies.
    """

    base_model_prefix = "network"  # the published names lack this prefix; transformers adds it
    main_input_name = "pixel_values"
    network: nn.Module

    def forward(self, pixel_values: Tensor) -> SemanticSegmenterOutput:
        return SemanticSegmenterOutput(logits=self.network(pixel_values))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *args: Any, config: PreTrainedConfig | None = None, **options: Any
    ) -> Self:
        """Load from a hub id or a folder; `options` are those of transformers and of the configuration.

        Every tensor must be present under its published name and with its published shape.

        Raises:
            NotLoaded: the model is missing, gated or broken, or holds another network.

        """
        file, shapes = published_shapes(name, options)
        if cls is not network_class(name, shapes):
            raise NotLoaded(f"{name}: {cls.__name__} cannot load this {WEIGHTS}; {FIX}")
        names = names_in(file)
        if config is None:
            if NOBG in names:  # its library has one order only
                options.setdefault("patch_order", "c hg wg")
            config = cls.configure(name, shapes, options)
        of_network = None
        if names != shapes.keys():  # read here, since transformers knows only names with a prefix
            state = renamed(safetensors.torch.load_file(file))
            of_network = {f"network.{key}": tensor for key, tensor in state.items()}
        model, report = super().from_pretrained(
            name if of_network is None else None,
            *args,
            config=config,
            state_dict=of_network,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options | {"trust_remote_code": False},  # even if the caller asks for it
        )
        for what in ("missing", "unexpected", "mismatched"):
            if keys := sorted(report[f"{what}_keys"]):
                first = str(keys[0]).removeprefix("network.")
                raise NotLoaded(f"{name}: {len(keys)} {what} tensors, such as {first}; {FIX}")
        out: Self = model.eval()
        return out

    @classmethod
    def configure(cls, name: str | Path, shapes: Shapes, options: dict[str, Any]) -> PreTrainedConfig:
        """Make the configuration, and remove the caller's configuration values from `options`."""
        return cls.config_class()

    def save_pretrained(self, save_directory: Any, **options: Any) -> None:
        """Save the configuration, and the weights under their published names."""
        options.setdefault("state_dict", self.network.state_dict())
        super().save_pretrained(save_directory, **options)

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: every weight is loaded, so none needs initialising."""


class ISNetConfig(PreTrainedConfig):
    """Configuration of IS-Net, which has no options."""

    model_type = "isnet"


class ISNetModel(MatteModel):
    """RMBG-1.4's network; see `MatteModel`."""

    config_class = ISNetConfig

    def __init__(self, config: ISNetConfig) -> None:
        super().__init__(config)
        self.network = ISNet()
        self.post_init()


class BiRefNetConfig(PreTrainedConfig):
    """`backbone`: a name in `cutout.models.swin.SIZES`. `depths`: the blocks of its stages, if not as many as there.

    `patch_order`: see `cutout.models.catalog.PatchOrder`.
    """

    model_type = "birefnet"
    backbone: str = "swin_v1_l"
    patch_order: PatchOrder = "wg hg c"
    depths: list[int] | None = None


class BiRefNetModel(MatteModel):
    """RMBG-2.0's network; see `MatteModel`."""

    config_class = BiRefNetConfig

    def __init__(self, config: BiRefNetConfig) -> None:
        super().__init__(config)
        depths = tuple(config.depths) if config.depths else None
        self.network = BiRefNet(config.backbone, config.patch_order, depths)  # type: ignore[arg-type]
        self.post_init()

    @classmethod
    def configure(cls, name: str | Path, shapes: Shapes, options: dict[str, Any]) -> PreTrainedConfig:
        """Detect the backbone and its depths from the weights, and the patch order from the repository's name.

        A configuration written by `save_pretrained` takes precedence over both, and the caller's options
        over all.
        """
        width = shapes["bb.patch_embed.proj.weight"][0]
        backbones = {size.width: backbone for backbone, size in SIZES.items()}
        if width not in backbones:
            raise NotLoaded(f"{name}: its backbone, of width {width}, is not one of: {', '.join(SIZES)}")
        told: dict[str, Any] = {"backbone": backbones[width], "patch_order": order_of(name)}
        depths = depths_of(shapes)
        if len(depths) == len(SIZES[told["backbone"]].depths) and depths != SIZES[told["backbone"]].depths:
            told["depths"] = list(depths)
        said, _ = cls.config_class.get_config_dict(
            name, **{key: options[key] for key in WHERE & options.keys()}
        )
        if said.get("model_type") == cls.config_class.model_type:
            told |= {key: said[key] for key in CONFIGURED if key in said}
        told |= {key: options.pop(key) for key in CONFIGURED if key in options}
        if told["patch_order"] not in get_args(PatchOrder):
            raise NotLoaded(
                f"{name}: patch_order {told['patch_order']!r} is not one of: {', '.join(get_args(PatchOrder))}"
            )
        return cls.config_class(**told)


def from_pretrained(name: str | Path, **options: Any) -> MatteModel:
    """Load either network from a hub id or a folder; the names of the weights decide which.

    Raises:
        NotLoaded: see `MatteModel.from_pretrained`.

    """
    _, shapes = published_shapes(name, options)
    return network_class(name, shapes).from_pretrained(name, **options)


FIX = "use the repository's id or a complete copy of its folder"


def published_shapes(name: str | Path, options: dict[str, Any]) -> tuple[Path, Shapes]:
    """Return the file of weights, downloaded if it is on the hub, and their shapes under the names of the network here."""
    try:
        file = cached_file(str(name), WEIGHTS, **{key: options[key] for key in WHERE & options.keys()})
        with safetensors.safe_open(file, "pt") as weights:
            published = {
                key: torch.empty(weights.get_slice(key).get_shape(), device="meta")
                for key in weights.keys()  # noqa: SIM118
            }
        return Path(file), {key: list(tensor.shape) for key, tensor in renamed(published).items()}
    except safetensors.SafetensorError as error:
        raise NotLoaded(
            f"{name}: {WEIGHTS} is truncated or not a safetensors file ({error}); {FIX}"
        ) from error
    except OSError as error:
        if type(error.__cause__).__name__ == "GatedRepoError":
            raise NotLoaded(
                f"{name} is gated: accept its terms on https://huggingface.co/{name}"
                " and set HF_TOKEN to a token of that account"
            ) from error
        reason = str(error).splitlines()[0].rstrip(".")
        raise NotLoaded(f"{name} is not available ({reason}); {FIX}") from error


def names_in(file: Path) -> set[str]:
    """Return the names of a file's tensors as they are published."""
    with safetensors.safe_open(file, "pt") as weights:
        return set(weights.keys())


def network_class(name: str | Path, shapes: Shapes) -> type[MatteModel]:
    """Return the model class that matches the names of the weights."""
    if "bb.patch_embed.proj.weight" in shapes:
        return BiRefNetModel
    if "stage1.rebnconvin.conv_s1.weight" in shapes:
        return ISNetModel
    raise NotLoaded(f"{name}: {WEIGHTS} contains neither an IS-Net nor a BiRefNet; {FIX}")


# Repositories whose weights have the newer order of patches.
NEWER_ORDER = r"BiRefNet_(HR|dynamic)|egeorcun(/|--)lucida|feyninc(/|--)FeyNobg|joelseytre(/|--)toonout"


def order_of(name: str | Path) -> PatchOrder:
    """Infer the patch order from the repository's name, which the hub's cache keeps in its paths."""
    return "c hg wg" if re.search(NEWER_ORDER, str(name)) else "wg hg c"


for _config, _model in ((ISNetConfig, ISNetModel), (BiRefNetConfig, BiRefNetModel)):
    AutoConfig.register(_config.model_type, _config)
    for _auto in (AutoModel, AutoModelForImageSegmentation):
        _auto.register(_config, _model)
