"""The engine: its device, its models, and its limits."""

import os
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from cutout.app.config.base import CommaSeparated, SettingsError, SettingsGroup, environment_name
from cutout.inference.errors import WeightsUnavailable
from cutout.inference.limits import Limits, SizeLimits
from cutout.inference.presets import load_presets
from cutout.inference.tiers import LAST_RESORT, Orders, Tier
from cutout.inference.weights import own
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import UnknownCheckpoint


def _check_presets(file: Path | None) -> Path | None:
    if file is not None:
        file = file.expanduser()
        load_presets(file)
    return file


def _setting_of(tier: Tier) -> str:
    return environment_name(EngineSettings, f"tier_{tier}")


class EngineSettings(SettingsGroup):
    """The engine: its device, its models, and its limits."""

    title: ClassVar[str] = "Engine"

    device: Literal["auto", "cuda", "cpu", "huggingface"] = Field(
        "auto",
        description="where networks run: `cuda`, `cpu`, or `huggingface`, to which photos are sent then; `auto`: "
        "a CUDA GPU if there is one, else Hugging Face if `CUTOUT_HF_INFERENCE_TOKEN` is set, else "
        "the CPU",
    )
    precision: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto",
        description="the precision of the networks; `auto`: float16 on a GPU, float32 on a CPU. On a CPU with AMX, "
        "`bfloat16` halves a network's time; masks differ by up to 4 of 255 levels",
    )
    gpu_backend: Literal["auto", "torch", "onnxruntime", "tensorrt"] = Field(
        "auto",
        description="the library that runs the networks on a GPU: `torch`, or `onnxruntime` or `tensorrt`, which need"
        " `cutout-server[gpu-onnx]`; `auto`: the fastest by `cutout doctor --measure-backends`, `torch` without that",
    )
    batch_size: int | None = Field(
        None, ge=1, le=64, description="photos in one run of a network; default: 8 on a GPU, 1 on a CPU"
    )
    batch_wait_ms: float = Field(
        2, ge=0, le=1000, description="how long an idle device waits for more photos to join a batch"
    )
    threads: int | None = Field(
        None,
        ge=1,
        description="photos in work at once; default: one more than there are cores, and on a GPU two batches "
        "more",
    )
    megapixels_in_work: float = Field(
        200,
        gt=0,
        description="the limit for all photos in work together; each megapixel takes up to 35 MB of memory. A GPU "
        "with less free memory than they need takes fewer",
    )
    max_waiting: int = Field(
        64,
        ge=1,
        description="photos that may wait for the engine before 503 `OVERLOADED`; fewer where they would wait for half of"
        " `CUTOUT_DEADLINE_SECONDS`",
    )
    deadline_seconds: float = Field(
        300,
        gt=0,
        description="the longest time that a photo may take, waiting included, before 504 `DEADLINE_EXCEEDED`",
    )
    max_megapixels: float = Field(50, gt=0, description="the largest picture, in megapixels")
    max_side: int = Field(32_768, ge=1, description="the longest side of a picture, in pixels")
    max_ratio: float = Field(
        100,
        ge=1,
        description="the largest ratio of a picture's longer side to its shorter one; a network sees nothing in a"
        " thinner picture",
    )
    max_frames: int = Field(
        200, ge=1, le=10_000, description="the most frames of an animation that are all cut out"
    )
    max_animation_megapixels: float = Field(
        100, gt=0, description="the most megapixels of all frames of such an animation together"
    )
    models_dir: Path = Field(
        default_factory=lambda: (
            Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cutout/models"
        ),
        description="the folder of the weights; default: the user's cache folder, `~/.cache/cutout/models`",
    )
    models_from: Path | None = Field(None, description="a folder to look for weights in before any download")
    accept_licences: CommaSeparated[str] = Field(
        (), description="checkpoints, comma-separated, whose licence you accept, such as `rmbg-1.4`"
    )
    strict_models: bool = Field(
        False, description="refuse to start if a substitute serves a tier that is sold"
    )
    tier_basic: CommaSeparated[str] = Field(
        (),
        description="the checkpoints of the tier `basic`, comma-separated, in order of preference, such as"
        " `shop-v3,rmbg-1.4`: [own weights](models.md#your-own-weights) or others. The first is the one that the tier"
        " promises, the later ones are substitutes, and `isnet-general` is the last of them unless"
        " `CUTOUT_STRICT_MODELS` is set; default: [the usual order](models.md)",
    )
    tier_standard: CommaSeparated[str] = Field((), description="the same for `standard`")
    tier_professional: CommaSeparated[str] = Field((), description="the same for `professional`")
    tier_industry: CommaSeparated[str] = Field((), description="the same for `industry`")
    tier_preview: CommaSeparated[str] = Field((), description="the same for `preview`")
    presets: Annotated[Path | None, AfterValidator(_check_presets)] = Field(
        None, description="a TOML file of [presets](pictures.md#your-own-presets) of your own"
    )

    @property
    def models_folder(self) -> ModelsFolder:
        return ModelsFolder(self.models_dir.expanduser(), self.accept_licences)

    @field_validator("tier_basic", "tier_standard", "tier_professional", "tier_industry", "tier_preview")
    @classmethod
    def _check_order(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        # Only where networks run it matters which of them are there: see `tier_orders`.
        for name in names:
            if not own.NAME.fullmatch(name):
                raise ValueError(f"{name} cannot be the name of a checkpoint; {own.NAME_RULE}")
            if names.count(name) > 1:
                raise ValueError(f"{name} is in the list twice")
        return names

    @property
    def tier_orders(self) -> Orders:
        """The checkpoints of the tiers whose order is set.

        Raises:
            SettingsError: one is neither in the catalogue nor among the own weights of this host; a line for each tier.

        """
        orders, problems = {}, []
        for tier in Tier:
            names = self.names_of(tier)
            if not names:
                continue
            if not self.strict_models and LAST_RESORT not in names:
                names = (*names, LAST_RESORT)
            try:
                orders[tier] = [own.find(self.models_folder, name) for name in names]
            except UnknownCheckpoint as error:
                problems.append(
                    f"{_setting_of(tier)}: {error} Weights of your own are added with: cutout models add FILE --like"
                    f" CHECKPOINT --name {error.name}"
                )
            except WeightsUnavailable as error:
                problems.append(f"{_setting_of(tier)}: {error}")
        if problems:
            raise SettingsError("\n".join(problems))
        return orders

    def names_of(self, tier: Tier) -> tuple[str, ...]:
        """Return the checkpoints that are set for a tier."""
        names: tuple[str, ...] = getattr(self, f"tier_{tier}")
        return names

    @property
    def limits(self) -> Limits:
        return Limits(
            threads=self.threads,
            waiting=self.max_waiting,
            seconds=self.deadline_seconds,
            sizes=SizeLimits(
                int(self.max_megapixels * 1_000_000),
                self.max_side,
                self.max_ratio,
                self.max_frames,
                int(self.max_animation_megapixels * 1_000_000),
            ),
            pixels_in_work=int(self.megapixels_in_work * 1_000_000),
            batch=self.batch_size,
            batch_wait=self.batch_wait_ms / 1000,
        )
