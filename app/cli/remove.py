"""`cutout remove`: photos from files, folders or a pipe."""

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutout.app.cli.console import CommandError, escape, photo_bar, say
from cutout.app.cli.engine import UNSURE, is_unsure, open_for, reason_of, remarks_of
from cutout.app.cli.option_flags import (
    AnimationFlag,
    BackgroundFlag,
    BackgroundImageFlag,
    BoxFlag,
    CanvasFlag,
    DropFlag,
    DropMaskFlag,
    FormatFlag,
    HintsFlag,
    HolesFlag,
    KeepFlag,
    KeepMaskFlag,
    KeepProfileFlag,
    KeepShadowFlag,
    LargestOnlyFlag,
    MarginFlag,
    MaskOnlyFlag,
    MaxMegapixelsFlag,
    MinCoverageFlag,
    OutFlag,
    OverwriteFlag,
    PositionFlag,
    PresetFlag,
    QualityFlag,
    RequireSubjectFlag,
    RoiFlag,
    ScaleFlag,
    ShadowFlag,
    ShadowOpacityFlag,
    TierFlag,
    TrimFlag,
    WithinFlag,
    flag_of,
    values_of,
)
from cutout.app.cli.output_record import Made, Seen
from cutout.app.cli.plan import RemovalPlan, Task, format_of, plan, read_hints, with_hints
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.app.core.atomic_write import is_full, say_full, write_whole
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.hints import Hints
from cutout.inference.options import Options
from cutout.inference.photo_hints import require_photos
from cutout.inference.presets import load_presets
from cutout.inference.tiers import Tier

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from cutout.inference.cutout import Cutout
    from cutout.inference.engine import Engine

PIPE = "-"
WATCH_EVERY_SECONDS = 1.0


def remove(
    sources: Annotated[list[str], typer.Argument(metavar="IN...", help="Photos, folders, or - for a pipe.")],
    out: OutFlag,
    tier: TierFlag = Tier.BASIC,
    preset: PresetFlag = None,
    file_format: FormatFlag = None,
    mask_only: MaskOnlyFlag = None,
    background: BackgroundFlag = None,
    background_image: BackgroundImageFlag = None,
    quality: QualityFlag = None,
    trim: TrimFlag = None,
    margin: MarginFlag = None,
    scale: ScaleFlag = None,
    position: PositionFlag = None,
    canvas: CanvasFlag = None,
    roi: RoiFlag = None,
    box: BoxFlag = None,
    keep: KeepFlag = None,
    drop: DropFlag = None,
    largest_only: LargestOnlyFlag = None,
    keep_mask: KeepMaskFlag = None,
    drop_mask: DropMaskFlag = None,
    holes: HolesFlag = None,
    min_coverage: MinCoverageFlag = None,
    within: WithinFlag = None,
    hints: HintsFlag = None,
    shadow: ShadowFlag = None,
    shadow_opacity: ShadowOpacityFlag = None,
    keep_shadow: KeepShadowFlag = None,
    keep_profile: KeepProfileFlag = None,
    require_subject: RequireSubjectFlag = None,
    max_megapixels: MaxMegapixelsFlag = None,
    animation: AnimationFlag = None,
    overwrite: OverwriteFlag = False,
    watch: Annotated[bool, typer.Option("--watch", help="Keep running and process new photos.")] = False,
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
) -> None:
    """Remove the background of photos. A second run processes only photos that are missing or have changed."""
    values = values_of(locals(), format_of(Path(out), file_format))
    settings = load_settings(device=device)
    options = load_presets(settings.presets).options(values, flag_of, settings.limits.sizes)
    _remove_all(settings, sources, out, options, hints_file=hints, overwrite=overwrite, watch=watch)


def _remove_all(
    settings: Settings,
    sources: list[str],
    out: str,
    options: Options,
    *,
    hints_file: Path | None,
    overwrite: bool,
    watch: bool,
) -> None:
    target = Path(out)
    if PIPE in sources:
        if len(sources) > 1:
            raise CommandError("- reads one photo from a pipe; it must be the only input.")
        if hints_file is not None:
            raise CommandError("--hints has the names of photos, and - has none. Give --box, --keep, …")
        _remove_piped(open_for(settings, options.tier), options, None if out == PIPE else target)
        return
    if out == PIPE:
        raise CommandError("-o - works only with one photo from a pipe; choose a folder.")

    paths = [Path(source) for source in sources]
    hints = {} if hints_file is None else read_hints(hints_file)
    run = _Run(settings, options)
    plan_all = partial(_plan, paths, target, options.format, hints)
    try:
        work = plan_all()
        _require_photos(hints, work, watch=watch)
        run.do(work, overwrite)
        if watch:
            _watch(run, plan_all)
    except KeyboardInterrupt:
        say("Stopped. Run the same command again to continue.")
        raise typer.Exit(130) from None
    finally:
        run.close()
    if run.failed:
        raise typer.Exit(1)


class _Run:
    """One run of the command: its engine, opened on first use, and the photos that failed."""

    def __init__(self, settings: Settings, options: Options) -> None:
        self.failed: dict[Path, str] = {}
        self._settings = settings
        self._options = options
        self._engine: Engine | None = None
        self._made: Made | None = None

    def do(self, work: RemovalPlan, overwrite: bool) -> None:
        """Process the missing photos with a progress bar and print a summary. A named output file is always written."""
        made = self.made(work)
        tasks = [task for task in work.tasks if overwrite or made is None or not made.has(task)]
        skipped = len(work.tasks) - len(tasks)
        others = 0 if made is None else sum(map(made.has_with_other_options, tasks))
        if others and not overwrite:
            say(f"{others} were made with other options and are made again.")
        if made is not None and not overwrite:
            made.adopt(work.tasks)
        if tasks:
            self._engine = self._engine or open_for(self._settings, self._options.tier)
            self._remove(tasks, self._engine, made)
        if skipped:
            say(f"{skipped} already done (--overwrite processes them again).")
        if work.left_out:
            names = ", ".join(sorted({file.suffix or file.name for file in work.left_out}))
            say(f"{len(work.left_out)} files do not look like photos and were skipped ({escape(names)}).")
        for reason, places in work.not_followed.items():
            some = ", ".join(map(str, places[:3])) + (", …" if len(places) > 3 else "")
            say(f"{len(places)} folders or links {escape(reason)} and were skipped ({escape(some)}).")
        if not work.tasks:
            say("No photos were found.")

    def made(self, work: RemovalPlan) -> Made | None:
        """Return the record of the output folder, which is read once; None if the output is a named file."""
        if work.folder is not None and self._made is None:
            self._made = Made(work.folder, self._options)
        return self._made

    def _remove(self, tasks: list[Task], engine: "Engine", made: Made | None) -> None:
        start, network = time.perf_counter(), engine.network_seconds
        done: list[Task] = []
        remarks: list[str] = []
        unsure: list[str] = []
        failed: dict[Path, str] = {}
        seen: dict[Task, Seen] = {}
        with photo_bar() as bar:
            row = bar.add_task("Removing backgrounds", total=len(tasks))
            photos = ((task, partial(_read, task, seen)) for task in tasks)
            made_of = engine.remove_many(
                photos, lambda task: task.options_of(self._options), on_frame=_frame_rows(bar)
            )
            for task, outcome in made_of:
                if isinstance(outcome, Exception):
                    failed[task.source] = reason_of(outcome)
                else:
                    _write(task, outcome, made, seen.get(task))
                    done.append(task)
                    name = escape(str(task.source))
                    remarks += [f"{name}: {escape(remark)}" for remark in remarks_of(outcome)]
                    unsure += [name] if is_unsure(outcome) else []
                bar.advance(row)
        seconds = time.perf_counter() - start
        share = 100 * (engine.network_seconds - network) / seconds
        say(f"{len(done)} of {len(tasks)} done in {seconds:.1f} s, {share:.0f} % of the time in the network.")
        for remark in remarks:
            say(f"[yellow]note:[/yellow] {remark}")
        for name in unsure:
            say(f"[yellow]review:[/yellow] {name}: {UNSURE}")
        for source, reason in failed.items():
            say(f"[red]failed:[/red] {escape(str(source))}: {escape(reason)}")
        self.failed |= failed

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _watch(run: _Run, plan_all: Callable[[], RemovalPlan]) -> None:
    """Process photos that arrive in the sources, once they stop growing. Poll, so that network drives work too."""
    say("Watching for new photos. Press Ctrl+C to stop.")
    seen: dict[Path, Seen] = {}  # state at the last poll
    done: dict[Path, Seen] = {}
    while True:
        time.sleep(WATCH_EVERY_SECONDS)
        work = plan_all()
        made = run.made(work)
        now = {task.source: Seen.of(task.source) for task in work.tasks if task.source.exists()}
        if not seen and made is None:  # the single photo was processed before watching began
            done = dict(now)
        settled = [
            task
            for task in work.tasks
            if task.source in now
            and not (made.has(task) if made is not None else now[task.source] == done.get(task.source))
            and task.source not in run.failed
            and now[task.source] == seen.get(task.source)
        ]
        for source in [source for source in run.failed if now.get(source) != seen.get(source)]:
            del run.failed[source]  # the file has changed: try again when it has settled
        seen = now
        if settled:
            run.do(replace(work, tasks=settled, left_out=[], not_followed={}), overwrite=True)
            done = dict(now)


def _frame_rows(bar: "Progress") -> Callable[[Task, int, int], None]:
    """Return what shows how many frames of an animation are done, in a row of its own until all are."""
    rows: dict[Task, TaskID] = {}

    def show(task: Task, done: int, frames: int) -> None:
        if task not in rows:
            rows[task] = bar.add_task(escape(task.source.name), total=frames)
        bar.update(rows[task], completed=done, visible=done < frames)

    return show


def _remove_piped(engine: "Engine", options: Options, target: Path | None) -> None:
    try:
        cutout = engine.remove(sys.stdin.buffer.read(), options)
    finally:
        engine.close()
    for remark in remarks_of(cutout):
        say(f"[yellow]note:[/yellow] {escape(remark)}")
    if is_unsure(cutout):
        say(f"[yellow]review:[/yellow] {UNSURE}")
    if target is None:
        sys.stdout.buffer.write(cutout.data)
        sys.stdout.buffer.flush()
    else:
        _write(Task(Path(PIPE), target), cutout, None, None)


def _plan(sources: list[Path], out: Path, file_format: Format, hints: Mapping[str, Hints]) -> RemovalPlan:
    work = with_hints(plan(sources, out, file_format), hints)
    for task in work.tasks:
        if task.source.resolve() in [target.resolve() for target in task.targets]:
            raise CommandError(f"{task.source} would be overwritten by its own cut-out; choose another -o.")
    return work


def _require_photos(hints: Mapping[str, Hints], work: RemovalPlan, *, watch: bool) -> None:
    """Check that each name in the hints fits a photo; one that is watched for may arrive later.

    Raises:
        CommandError: a name fits no photo.

    """
    try:
        require_photos(hints, [task.name for task in work.tasks])
    except InvalidOptions as error:
        if not watch:
            raise CommandError(f"--hints: {error}") from None
        say(f"[yellow]note:[/yellow] --hints: {escape(str(error))}")


def _read(task: Task, seen: dict[Task, Seen]) -> bytes:
    seen[task] = Seen.of(task.source)  # before reading, so that a photo that changes meanwhile is redone
    return task.source.read_bytes()


def _write(task: Task, cutout: "Cutout", made: Made | None, seen: Seen | None) -> None:
    target = task.target_of(cutout.format)
    try:
        write_whole(target, cutout.data)
        if made is not None and seen is not None:
            made.add(task, target, seen)
    except OSError as error:
        # A full disk would fail the next photo too, so stop the run.
        why = (
            say_full(target.parent, "-o") if is_full(error) else f"Cannot write {target} ({error.strerror})."
        )
        raise CommandError(f"{why} Run the same command again to continue.") from error
