"""Which files an assistant may read and write, and which result goes where."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cutout.app.cli.console import CommandError
from cutout.app.cli.plan import RemovalPlan, Task, plan
from cutout.inference.imaging.encode import Format

# The end of a result's name beside its photo, as the page names downloads; the folder of results in a folder of photos.
BESIDE = "-cutout"
WITHIN = "cutouts"
# An assistant reads the whole answer; a folder may have any number of other files.
MOST_PASSED_OVER = 20


class Folders:
    """The folders, with all below them, that an assistant may use. Links are followed before a path is judged.

    `roots` are their real paths; relative paths begin at the first of them.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Resolve the folders.

        Raises:
            CommandError: one of them is not a folder.

        """
        for folder in folders:
            if not folder.expanduser().is_dir():
                raise CommandError(f"--folder: {folder} is not a folder. Create it, or name another.")
        self.roots = tuple(folder.expanduser().resolve() for folder in folders)

    def resolve(self, given: str) -> Path:
        """Return the real path that an assistant's text names, which need not exist.

        Raises:
            CommandError: it is not a path, or leads out of the folders.

        """
        try:
            path = (self.roots[0] / Path(given).expanduser()).resolve()
        except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop of links, an unknown ~user
            raise CommandError(
                f"{given[:200]!r} is not a path. Give the path of a photo or a folder."
            ) from None
        if not given.strip() or not self.contain(path):
            raise CommandError(f"{given!r} is outside of the folders that may be used. {self.advice}")
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # such as a name that is too long
            raise CommandError(f"{given[:200]!r} cannot be used ({error.strerror}).") from None
        return path

    def contain(self, path: Path) -> bool:
        """Return whether a path, with its links followed, is in one of the folders."""
        real = path.resolve()
        return any(real.is_relative_to(root) for root in self.roots)

    @property
    def advice(self) -> str:
        """What to do about a path outside of them."""
        return (
            f"These may: {', '.join(map(str, self.roots))}. The user can allow another one by starting the server with"
            " --folder."
        )


@dataclass(frozen=True)
class Work:
    """The tasks of a call, the files that were passed over, and the photos that cannot be done, with the reason."""

    tasks: list[Task]
    passed_over: list[str]
    refused: list[tuple[Path, str]]


def work_of(
    folders: Folders, paths: Sequence[str], output: str | None, file_format: Format, *, overwrite: bool
) -> Work:
    """Plan the results of photos and folders: in `output`, else beside each photo, or in `cutouts` in each folder.

    Raises:
        CommandError: a path cannot be used, or there is no photo; the message says what to do.

    """
    if not paths:
        raise CommandError("No path was given. Give that of a photo or a folder.")
    sources = [folders.resolve(path) for path in paths]
    for given, source in zip(paths, sources, strict=True):
        if not (source.is_file() or source.is_dir()):
            raise CommandError(f"{given!r} is not a file or folder (looked at {source}). Check its spelling.")
    plans = (
        list(_beside(sources, file_format))
        if output is None
        else [plan(sources, folders.resolve(output), file_format)]
    )
    tasks, refused = [], []
    planned = [task for one in plans for task in one.tasks]
    photos = {task.source.resolve() for task in planned}
    for task in planned:
        try:
            reason = _refusal(folders, task, photos, overwrite=overwrite)
        except OSError as error:  # such as a result's name that is too long
            reason = f"{error.filename} cannot be used ({error.strerror}). Give another output."
        if reason is None:
            tasks.append(task)
        else:
            refused.append((task.source, reason))
    passed_over = [
        f"{place}: folders or links that {reason} are skipped."
        for one in plans
        for reason, places in one.not_followed.items()
        for place in places
    ]
    passed_over += [f"{file}: it does not look like a photo." for one in plans for file in one.left_out]
    if len(passed_over) > MOST_PASSED_OVER:
        more = len(passed_over) - MOST_PASSED_OVER
        passed_over = [*passed_over[:MOST_PASSED_OVER], f"… and {more} more."]
    if not tasks and not refused:
        raise CommandError(f"No photos were found in {', '.join(map(repr, paths))}.")
    return Work(tasks, passed_over, refused)


def may_write(target: Path, *, overwrite: bool) -> str | None:
    """Return why a result may not be written there, None if it may."""
    if target.is_dir():
        return f"{target} is a folder. Give another output."
    if target.exists() and not overwrite:
        return f"{target} exists already. Give another output, or overwrite=true to replace it."
    return None


def _refusal(folders: Folders, task: Task, photos: Collection[Path], *, overwrite: bool) -> str | None:
    if not folders.contain(task.source):
        return f"It leads to a file outside of the folders that may be used. {folders.advice}"
    for target in task.targets:
        if not folders.contain(target):
            return f"{target} leads out of the folders that may be used. {folders.advice}"
        if target.resolve() == task.source.resolve():
            return "It would be replaced by its own cut-out. Give another output."
        if target.resolve() in photos:
            return f"Its result would replace {target}, which is one of the photos. Give another output."
        reason = may_write(target, overwrite=overwrite)
        if reason is not None:
            return reason
    return None


def _beside(sources: Iterable[Path], file_format: Format) -> Iterable[RemovalPlan]:
    photos: dict[Path, list[Path]] = defaultdict(list)
    for source in sources:
        if source.is_dir():
            yield plan([source], source / WITHIN, file_format)
        else:
            photos[source.parent].append(source)
    for folder, files in photos.items():
        work = plan(files, folder, file_format)
        yield replace(work, tasks=[_renamed(task) for task in work.tasks])


def _renamed(task: Task) -> Task:
    targets = [one.with_name(f"{one.stem}{BESIDE}{one.suffix}") for one in task.targets]
    return replace(task, target=targets[0], opaque_target=targets[1] if len(targets) > 1 else None)
