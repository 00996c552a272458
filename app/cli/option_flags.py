"""The flags of `cutout remove`, most of which are options of a removal."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from cutout.app.cli.console import CommandError
from cutout.inference.option_values import (
    LEAST_MEGAPIXELS,
    MOST_MEGAPIXELS,
    AnimationName,
    FormatName,
    HolesName,
    OptionValues,
    ShadowName,
)
from cutout.inference.tiers import Tier

OutFlag = Annotated[
    str,
    typer.Option("-o", "--out", metavar="OUT", help="A folder; for a single photo, a file; - for a pipe."),
]
OverwriteFlag = Annotated[
    bool, typer.Option("--overwrite", help="Process photos again that are done already.")
]
TierFlag = Annotated[Tier, typer.Option("--tier", help="Quality tier.")]
PresetFlag = Annotated[
    str | None,
    typer.Option(
        "--preset", help="A preset, such as amazon (see cutout presets); other options override it."
    ),
]
FormatFlag = Annotated[
    FormatName | None,
    typer.Option("--format", help="Default: by the extension of OUT, else that of the preset, else png."),
]
MaskOnlyFlag = Annotated[
    bool | None, typer.Option("--mask-only", help="Write the alpha matte as a greyscale image.")
]
BackgroundFlag = Annotated[
    str | None,
    typer.Option(
        "--background", help="A colour such as white or #ffffff80, gradient(white, #ddd, 90), blur, or none."
    ),
]
BackgroundImageFlag = Annotated[
    Path | None,
    typer.Option("--background-image", metavar="FILE", help="A picture, centred, that covers the result."),
]
QualityFlag = Annotated[
    int | None, typer.Option("--quality", min=1, max=100, help="Quality of WebP, AVIF and JPEG; default 90.")
]
TrimFlag = Annotated[bool | None, typer.Option("--trim/--no-trim", help="Cut the result to the subject.")]
MarginFlag = Annotated[
    str | None, typer.Option("--margin", help="With --trim or --canvas: 5%, or 10px 20px, or four sides.")
]
ScaleFlag = Annotated[
    str | None, typer.Option("--scale", help="Share of the result that the subject fits in, such as 80%.")
]
PositionFlag = Annotated[
    str | None, typer.Option("--position", help="Place of the subject: center, 50% 100%, or original.")
]
CanvasFlag = Annotated[
    str | None, typer.Option("--canvas", help="Width and height of the result in pixels: 2000x2000.")
]
RoiFlag = Annotated[
    str | None,
    typer.Option("--roi", help="Part of the photo with the subject: left, top, right, bottom."),
]
BoxFlag = Annotated[
    str | None,
    typer.Option("--box", help="A box that the subject is inside of: left, top, right, bottom."),
]
KeepFlag = Annotated[
    str | None,
    typer.Option("--keep", help="Points on the parts that stay: 120px 80px, 50% 50%."),
]
DropFlag = Annotated[
    str | None, typer.Option("--drop", help="Points on the parts that go: 120px 80px, 50% 50%.")
]
LargestOnlyFlag = Annotated[
    bool | None,
    typer.Option("--largest-only/--no-largest-only", help="Keep only the largest connected part."),
]
KeepMaskFlag = Annotated[
    Path | None,
    typer.Option(
        "--keep-mask", metavar="FILE", help="A picture with white strokes on what stays or is added."
    ),
]
DropMaskFlag = Annotated[
    Path | None,
    typer.Option("--drop-mask", metavar="FILE", help="A picture with white strokes on what goes."),
]
HolesFlag = Annotated[
    HolesName | None,
    typer.Option("--holes", help="fill: holes that the subject encloses become part of it."),
]
MinCoverageFlag = Annotated[
    float | None,
    typer.Option(
        "--min-coverage",
        min=0,
        max=100,
        help="A subject that takes less of the photo, in percent, counts as none.",
    ),
]
WithinFlag = Annotated[
    str | None,
    typer.Option("--within", help="All outside of this box is background: left, top, right, bottom."),
]
HintsFlag = Annotated[
    Path | None,
    typer.Option("--hints", metavar="FILE", help="Hints by file name, as JSON; they replace those above."),
]
ShadowFlag = Annotated[ShadowName | None, typer.Option("--shadow", help="A shadow under the subject.")]
ShadowOpacityFlag = Annotated[
    float | None,
    typer.Option("--shadow-opacity", min=0, max=100, help="Opacity of the shadow in percent; default 35."),
]
KeepShadowFlag = Annotated[
    bool | None,
    typer.Option("--keep-shadow/--no-keep-shadow", help="Keep the photo's own shadow on a plain ground."),
]
KeepProfileFlag = Annotated[
    bool | None,
    typer.Option("--keep-profile/--no-keep-profile", help="Keep the photo's colour profile."),
]
RequireSubjectFlag = Annotated[
    bool | None,
    typer.Option("--require-subject/--no-require-subject", help="Fail for photos without a subject."),
]
MaxMegapixelsFlag = Annotated[
    float | None,
    typer.Option(
        "--max-megapixels",
        min=LEAST_MEGAPIXELS,
        max=MOST_MEGAPIXELS,
        help="Scale larger photos down to this size before any work.",
    ),
]


AnimationFlag = Annotated[
    AnimationName | None,
    typer.Option("--animation", help="all: every frame of animated GIF, APNG and WebP; default: the first."),
]


def flag_of(name: str) -> str:
    """Return the flag of an option of `OptionValues`."""
    return "--" + name.replace("_", "-")


def values_of(flags: Mapping[str, Any], file_format: str | None) -> OptionValues:
    """Return the options among a command's flags, by their names; those that are pictures are read.

    Raises:
        CommandError: a file cannot be read; the message names its flag.

    """
    given = {one.name: flags[one.name] for one in fields(OptionValues) if one.name in flags}
    for name, value in given.items():
        if isinstance(value, Path):
            try:
                given[name] = value.read_bytes()
            except OSError as error:
                raise CommandError(f"{flag_of(name)}: {value} cannot be read ({error.strerror}).") from None
    return OptionValues(**given | {"format": file_format})
