"""The tools of `cutout mcp`: photos are read from files and results are written to files; calls carry only paths."""

import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from anyio import from_thread, to_thread
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations
from pydantic import BaseModel, Field

from cutout.app.cli.console import CommandError
from cutout.app.cli.engine import UNSURE, is_unsure, open_for, reason_of, remarks_of
from cutout.app.cli.mcp_files import Folders, Work, may_write, work_of
from cutout.app.cli.plan import Task, format_of
from cutout.app.config.settings import Settings
from cutout.app.core.atomic_write import is_full, say_full, write_whole
from cutout.app.core.errors import OperatorError
from cutout.inference.errors import CutoutError, InvalidPhoto, ModelUnavailable
from cutout.inference.option_values import FormatName, OptionValues, ShadowName
from cutout.inference.options import Options
from cutout.inference.presets import load_presets
from cutout.inference.tiers import Tier, choose
from cutout.version import __version__

if TYPE_CHECKING:
    from cutout.inference.cutout import Cutout
    from cutout.inference.engine import Engine

log = logging.getLogger(__name__)

INSTRUCTIONS = (
    "Removes the background of photos on this machine. Give paths of photos or folders; results are written to files,"
    " and their paths are returned. Photos are never changed, and no existing file is replaced without overwrite=true."
    " Look at the results whose needs_review is not empty, or ask the user to."
)
# An assistant reads the whole answer.
MOST_RESULTS = 200
# The tools write new files, which replace others if they are told to. Their world is the folders.
WRITES = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)

Paths = Annotated[
    str | list[str],
    Field(
        description="A photo, a folder of photos, or a list of them. Relative paths begin at the first folder."
    ),
]
Output = Annotated[
    str | None,
    Field(
        description="A folder; for one photo also a file, such as cat.png. Default: beside the photo as NAME-cutout.png;"
        " of a folder, in its folder `cutouts`."
    ),
]
AnyTier = Annotated[
    Tier,
    Field(
        description="Quality: basic is the fastest; industry, with a second look, the best; preview is small."
    ),
]
AnyFormat = Annotated[
    FormatName | None,
    Field(
        description="Default: that of the output's extension, else of the preset, else png. jpg has no transparency."
    ),
]
Background = Annotated[
    str | None,
    Field(
        description="A colour such as white or #ffffff80, gradient(white, #ddd, 90), or blur. Default: none."
    ),
]
Box = Annotated[
    str | None,
    Field(
        description="A box that the subject is inside of: left, top, right, bottom, such as 10% 0% 90% 100%."
    ),
]
Overwrite = Annotated[bool, Field(description="Replace results that exist already.")]


class Subject(BaseModel):
    """The subject's box in the picture, in pixels."""

    left: int
    top: int
    width: int
    height: int


class Result(BaseModel):
    """What became of one photo: the picture that was written, or the error."""

    photo: str
    output: str | None = None
    width: int | None = None
    height: int | None = None
    subject: Annotated[Subject | None, Field(description="None if no subject was found.")] = None
    coverage: Annotated[
        float | None, Field(description="The share of the picture that the subject takes, 0 to 1.")
    ] = None
    model: str | None = None
    notes: list[str] = []
    needs_review: Annotated[
        list[str], Field(description="Why a person should look at the result; empty if they need not.")
    ] = []
    error: str | None = None


class Answer(BaseModel):
    """The results of a call, in the order in which they were done."""

    made: int
    failed: int
    results: list[Result] = Field(
        description=f"With more than {MOST_RESULTS} photos, those that failed or need review come first; the others are"
        " left out, and their files are there all the same."
    )
    passed_over: list[str] = Field(description="Files and folders that were not read as photos, and why.")


class PresetInfo(BaseModel):
    """A preset for `make_listing_picture`."""

    name: str
    title: str
    sets: dict[str, Any]
    asks_for: str
    source: str


class TierInfo(BaseModel):
    """Whether this machine can serve a tier, and with which checkpoint."""

    tier: str
    checkpoint: str | None
    substitute_for: str | None = None
    error: str | None = None


class Setup(BaseModel):
    """What this machine can do."""

    version: str
    folders: list[str]
    device: str
    tiers: list[TierInfo]


class Remover:
    """Does the work of the tools. The engine of a tier is opened at its first use, and shared by all calls."""

    def __init__(
        self,
        settings: Settings,
        folders: Folders,
        open_engine: Callable[[Settings, Tier], "Engine"] = open_for,
    ) -> None:
        self.settings = settings
        self.folders = folders
        self._open = open_engine
        self._engines: dict[Tier, Engine] = {}
        self._opening = threading.Lock()

    def close(self) -> None:
        """Close the engines."""
        for engine in self._engines.values():
            engine.close()

    async def run(
        self, ctx: Context, paths: str | list[str], output: str | None, overwrite: bool, **given: Any
    ) -> Answer:
        """Process photos in a thread, reporting each one that is done. If the call is cancelled, no more are begun.

        Raises:
            ToolError: nothing could be done; the message says what to do.

        """

        async def tell(done: int, total: int, photo: str) -> None:
            await ctx.report_progress(done, total, photo)

        try:
            options = self._options(output, **given)
            given_paths = [paths] if isinstance(paths, str) else paths
            look = partial(work_of, self.folders, given_paths, output, options.format, overwrite=overwrite)
            work = await to_thread.run_sync(look)  # a folder may be large, and its disk slow
            results = await to_thread.run_sync(partial(self._do, work, options, overwrite, tell))
        except (CutoutError, OperatorError) as error:
            raise ToolError(str(error)) from error
        results += [Result(photo=str(photo), error=reason) for photo, reason in work.refused]
        made = sum(result.error is None for result in results)
        if len(results) == 1 and made == 0:
            raise ToolError(f"{results[0].photo}: {results[0].error}")
        return Answer(
            made=made, failed=len(results) - made, results=told_of(results), passed_over=work.passed_over
        )

    def setup(self) -> Setup:
        """Return what this machine can do, without loading a network."""
        from cutout.app.bootstrap import device_of

        try:
            device: str = device_of(self.settings)
        except ModelUnavailable as error:
            device = str(error)
        return Setup(
            version=__version__,
            folders=[str(root) for root in self.folders.roots],
            device=device,
            tiers=[self._tier(tier, device) for tier in Tier],
        )

    def _tier(self, tier: Tier, device: str) -> TierInfo:
        if device == "huggingface":
            return TierInfo(tier=tier, checkpoint=None)
        try:
            choice = choose(tier, self.settings.models_folder, self.settings.tier_orders)
        except ModelUnavailable as error:
            return TierInfo(tier=tier, checkpoint=None, error=str(error))
        substitute_for = choice.wanted if choice.substitute else None
        return TierInfo(tier=tier, checkpoint=choice.checkpoint.name, substitute_for=substitute_for)

    def _options(self, output: str | None, **given: Any) -> Options:
        out = Path() if output is None else self.folders.resolve(output)
        named = format_of(out, given.pop("format"))
        values = OptionValues(**given, format=named)
        return load_presets(self.settings.presets).options(values, sizes=self.settings.limits.sizes)

    def _engine(self, tier: Tier) -> "Engine":
        with self._opening:
            if tier not in self._engines:
                self._engines[tier] = self._open(self.settings, tier)
            return self._engines[tier]

    def _do(self, work: Work, options: Options, overwrite: bool, tell: Callable[..., Any]) -> list[Result]:
        results: list[Result] = []
        if not work.tasks:
            return results
        if options.tier not in self._engines:
            from_thread.run(tell, 0, len(work.tasks), "Loading the network")
        photos = self._photos(work.tasks)
        for task, outcome in self._engine(options.tier).remove_many(photos, options):
            from_thread.check_cancelled()
            results.append(self._finish(task, outcome, overwrite))
            from_thread.run(tell, len(results), len(work.tasks), task.source.name)
        return results

    def _photos(self, tasks: list[Task]) -> Iterator[tuple[Task, Callable[[], bytes]]]:
        for task in tasks:
            from_thread.check_cancelled()
            yield task, partial(self._read, task.source)

    def _read(self, photo: Path) -> bytes:
        limit = self.settings.max_upload_mb
        if photo.stat().st_size > self.settings.max_upload_bytes:
            raise InvalidPhoto(
                f"The file has more than {limit} MB (CUTOUT_MAX_UPLOAD_MB). Scale the photo down."
            )
        return photo.read_bytes()

    def _finish(self, task: Task, outcome: "Cutout | CutoutError | OSError", overwrite: bool) -> Result:
        """Write a result, and describe it."""
        photo = str(task.source)
        if isinstance(outcome, Exception):
            return Result(photo=photo, error=reason_of(outcome))
        target = task.target_of(outcome.format)
        reason = may_write(target, overwrite=overwrite)  # the file may have been made meanwhile
        if reason is not None:
            return Result(photo=photo, error=reason)
        try:
            write_whole(target, outcome.data)
        except OSError as error:
            if is_full(error):  # the next photo would fail too
                raise CommandError(say_full(target.parent, "output")) from error
            return Result(
                photo=photo, error=f"{target} cannot be written ({error.strerror}). Give another output."
            )
        box = outcome.subject
        return Result(
            photo=photo,
            output=str(target),
            width=outcome.width,
            height=outcome.height,
            subject=None
            if box is None
            else Subject(left=box.left, top=box.top, width=box.width, height=box.height),
            coverage=round(outcome.coverage, 4),
            model=outcome.checkpoint,
            notes=list(outcome.notes),
            needs_review=_review(outcome),
        )


def told_of(results: list[Result]) -> list[Result]:
    """Return the results that an answer has room for; those that somebody has to look at come first."""
    if len(results) <= MOST_RESULTS:
        return results
    return sorted(results, key=lambda one: (one.error is None, not one.needs_review))[:MOST_RESULTS]


def _review(cutout: "Cutout") -> list[str]:
    if is_unsure(cutout):
        return [UNSURE]
    return [remark for remark in remarks_of(cutout) if remark not in cutout.notes]


def server_of(remover: Remover) -> MCPServer:
    """Return a server with the tools."""
    server: MCPServer = MCPServer(
        "cutout", title="Cutout", instructions=INSTRUCTIONS, version=__version__, log_level="WARNING"
    )

    _add_writing(server, remover)
    _add_reading(server, remover)
    return server


def _add_writing(server: MCPServer, remover: Remover) -> None:
    @server.tool(title="Remove the background", annotations=WRITES)
    async def remove_background(
        ctx: Context,
        path: Paths,
        output: Output = None,
        tier: AnyTier = Tier.BASIC,
        format: AnyFormat = None,
        background: Background = None,
        trim: Annotated[bool, Field(description="Cut the picture to the subject.")] = False,
        margin: Annotated[str | None, Field(description="With trim or canvas: 5%, or 10px 20px.")] = None,
        canvas: Annotated[str | None, Field(description="Size of the picture in pixels: 2000x2000.")] = None,
        shadow: Annotated[ShadowName | None, Field(description="A shadow under the subject.")] = None,
        box: Box = None,
        mask_only: Annotated[bool, Field(description="Write the alpha matte, in grey.")] = False,
        overwrite: Overwrite = False,
    ) -> Answer:
        """Remove the background of photos and write the results to files. Photos are never changed."""
        options = {
            "tier": tier,
            "format": format,
            "background": background,
            "trim": trim or None,
            "margin": margin,
        }
        options |= {"canvas": canvas, "shadow": shadow, "box": box, "mask_only": mask_only or None}
        return await remover.run(ctx, path, output, overwrite, **options)

    @server.tool(title="Make a listing picture", annotations=WRITES)
    async def make_listing_picture(
        ctx: Context,
        path: Paths,
        preset: Annotated[str, Field(description="The name of a preset, such as amazon: see list_presets.")],
        output: Output = None,
        tier: AnyTier = Tier.BASIC,
        format: AnyFormat = None,
        box: Box = None,
        overwrite: Overwrite = False,
    ) -> Answer:
        """Make pictures as a marketplace asks for them: size, background, margin and format come from a preset."""
        options = {"preset": preset, "tier": tier, "format": format, "box": box}
        return await remover.run(ctx, path, output, overwrite, **options)


def _add_reading(server: MCPServer, remover: Remover) -> None:
    @server.tool(title="List the presets", annotations=READS)
    async def list_presets() -> list[PresetInfo]:
        """List the presets for make_listing_picture, with what they set and the pages that they come from."""
        return [
            PresetInfo(
                name=preset.name,
                title=preset.title,
                sets=preset.given,
                asks_for=preset.asks,
                source=preset.source,
            )
            for preset in load_presets(remover.settings.presets).values()
        ]

    @server.tool(title="Check the setup", annotations=READS)
    async def check_setup() -> Setup:
        """Say which folders may be used, where networks run, and which checkpoint serves each tier. Loads nothing."""
        return await to_thread.run_sync(remover.setup)


def serve(settings: Settings, folders: Folders) -> None:
    """Serve on stdin and stdout until stdin ends. All else that this process prints goes to stderr."""
    remover = Remover(settings, folders)
    try:
        server_of(remover).run("stdio")
    finally:
        remover.close()
