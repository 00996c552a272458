"""Plan of a run: which photo becomes which output file."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cutout.app.cli.console import CommandError
from cutout.inference.errors import InvalidOptions
from cutout.inference.imaging.decode import SUFFIXES
from cutout.inference.imaging.encode import Format
from cutout.inference.imaging.hints import Hints
from cutout.inference.option_values import FORMATS
from cutout.inference.options import Options
from cutout.inference.photo_hints import assign, parse_photo_hints

JPG_SUFFIXES = ("jpeg", "jfif", "jpe", "jif", "jfi")
WRITTEN = tuple(one.value for one in Format if one is not Format.AUTO)
# Suffixes of image formats that are neither read nor written.
OTHER_PICTURES = frozenset(
    {".jxl", ".jp2", ".psd", ".psb", ".tga", ".svg", ".pdf", ".ico", ".exr", ".dng", ".ppm", ".eps", ".xcf"}
)


@dataclass(frozen=True)
class Task:
    """One photo and the file that its cut-out is written to.

    With the format `auto`, a cut-out without transparent pixels is written to `opaque_target` instead, as a JPEG.
    `name` is the photo's path within the folder that was given, with `/`. `hints` are its own, None if it has none.
    """

    source: Path
    target: Path
    opaque_target: Path | None = None
    name: str = field(default="", kw_only=True)
    hints: Hints | None = field(default=None, kw_only=True)

    @property
    def targets(self) -> tuple[Path, ...]:
        """All files that the cut-out may be written to."""
        return (self.target,) if self.opaque_target is None else (self.target, self.opaque_target)

    def target_of(self, made: Format) -> Path:
        """Return the file for a cut-out of this format."""
        return self.opaque_target if self.opaque_target is not None and made is Format.JPG else self.target

    def options_of(self, run: Options) -> Options:
        """Return the photo's options in a run with these: its own hints replace those of the run."""
        return run if self.hints is None else replace(run, hints=self.hints)


@dataclass(frozen=True)
class RemovalPlan:
    """All tasks in order, and the files that were left out because they do not look like photos.

    `folder` is the output folder, or None if one photo goes to a named file. `not_followed` lists the folders and links
    that were skipped, by reason.
    """

    tasks: list[Task]
    left_out: list[Path]
    folder: Path | None
    not_followed: dict[str, list[Path]] = field(default_factory=dict)


def plan(sources: Iterable[Path], out: Path, file_format: Format) -> RemovalPlan:
    """Plan the tasks: files go into the folder `out`, folders keep their structure below it.

    `out` is a file if there is one photo and `out` has the suffix of an image. Photos that differ only in their
    suffix keep it: a.jpg and a.png become a.jpg.png and a.png.png.

    Raises:
        CommandError: a source does not exist, or is inside the output folder; or `out` is a ZIP for several photos; or
            photos of several folders would have the same result.

    """
    sources = list(sources)
    if names_a_result(out):
        if len(sources) == 1 and sources[0].is_file():
            return RemovalPlan([Task(sources[0], out, name=sources[0].name)], [], None)
        if out.suffix.lower() == ".zip":
            raise CommandError(f"{out} would hold the result of one photo. For several, choose a folder.")

    placed: list[tuple[Path, Path]] = []  # photo, its place below `out` with its own suffix
    left_out: list[Path] = []
    not_followed: dict[str, list[Path]] = defaultdict(list)
    for source in sources:
        if source.is_file():
            placed.append((source, Path(source.name)))
        elif source.resolve().is_relative_to(out.resolve()):
            raise CommandError(f"{source} is inside the output folder; choose another -o.")
        elif source.is_dir():
            for file in _files(source, out, not_followed):
                if file.suffix.lower() in SUFFIXES and file.is_file():
                    placed.append((file, file.relative_to(source)))
                else:
                    left_out.append(file)
        else:
            raise CommandError(f"{source} does not exist.")

    suffixes = ("png", "jpg") if file_format is Format.AUTO else (file_format.value,)
    placed = list({(photo.resolve(), place): (photo, place) for photo, place in placed}.values())  # each once
    tasks = []
    for (photo, place), result in zip(placed, _own_names(placed, out), strict=True):
        targets = [out / result.with_name(f"{result.name}.{one}") for one in suffixes]
        tasks.append(Task(photo, *targets, name=place.as_posix()))
    return RemovalPlan(tasks, left_out, out, dict(not_followed))


def _own_names(placed: list[tuple[Path, Path]], out: Path) -> list[Path]:
    """Return the place of each result without the suffix of its format; no two are equal."""
    names = [place.with_suffix("") for _, place in placed]
    while True:
        taken = Counter(names)
        longer = [place if taken[name] > 1 else name for name, (_, place) in zip(names, placed, strict=True)]
        if longer == names:
            break
        names = longer
    for name, number in taken.items():
        if number > 1:
            one, other = [photo for photo, place in placed if place == name][:2]
            raise CommandError(
                f"{one} and {other} would have the same result in {out}. Give the folder that holds both, or run them"
                " one by one, into a folder each."
            )
    return names


def read_hints(file: Path) -> dict[str, Hints]:
    """Return the hints of `--hints`, by name.

    Raises:
        CommandError: the file cannot be read, or a hint in it cannot be used.

    """
    try:
        return parse_photo_hints(file.read_bytes())
    except OSError as error:
        raise CommandError(f"--hints: {file} cannot be read ({error.strerror}).") from None
    except InvalidOptions as error:
        raise CommandError(f"--hints: {file}: {error}") from None


def with_hints(work: RemovalPlan, hints: Mapping[str, Hints]) -> RemovalPlan:
    """Return the plan in which the photos have their hints, by their names.

    Raises:
        CommandError: a name fits photos in several folders, or two names fit the same photo.

    """
    try:
        own = assign(hints, [task.name for task in work.tasks])
    except InvalidOptions as error:
        raise CommandError(f"--hints: {error}") from None
    tasks = [replace(task, hints=one) for task, one in zip(work.tasks, own, strict=True)]
    return replace(work, tasks=tasks)


def names_a_result(path: Path) -> bool:
    """Tell whether a path has the suffix of an image, of any format, or of a ZIP, and is not a folder."""
    return path.suffix.lower() in SUFFIXES | OTHER_PICTURES | {".zip"} and not path.is_dir()


def format_of(out: Path, asked: str | None) -> str | None:
    """Return the name of the output format: the requested one, else that of the suffix of `out`, else None.

    Raises:
        CommandError: the suffix of `out` names a format that cannot be written, or another than the requested one.

    """
    if not names_a_result(out):
        return asked
    suffix = out.suffix.lower().removeprefix(".")
    named = Format.JPG.value if suffix in JPG_SUFFIXES else suffix
    if named not in WRITTEN:
        raise CommandError(
            f"Results are written as {', '.join(WRITTEN)}, not as {suffix}. Choose one of these, such as"
            f" {out.with_suffix('.png')}."
        )
    if asked is not None and FORMATS[asked] != named:
        raise CommandError(
            f"{out} has the extension of {named}, but --format is {asked}. Leave out --format, or make them agree."
        )
    return asked or named


def _files(folder: Path, out: Path, not_followed: dict[str, list[Path]]) -> list[Path]:
    """Return the files below `folder`, sorted, without hidden files and without the output folder `out`.

    Symbolic links are followed, but each folder is read only once. Links come last, so that a folder that is also
    below `folder` under its real name is listed under that name.
    """
    results, top = out.resolve(), folder.resolve()
    files: list[Path] = []
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], list[Path]()
    while waiting or links:
        here = waiting.pop() if waiting else links.pop(0)
        try:
            real = here.resolve()
            if real.is_relative_to(results):
                continue
            if here != folder and top.is_relative_to(real):
                not_followed["form a loop"].append(here)
                continue
            stat = here.stat()
            if (stat.st_dev, stat.st_ino) in seen:
                not_followed["are processed under another path"].append(here)
                continue
            with os.scandir(here) as entries:
                names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
        except OSError as error:
            not_followed[f"cannot be read ({error.strerror})"].append(here)
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for path in map(here.joinpath, names):
            if path.is_dir():
                (links if path.is_symlink() else waiting).append(path)
            elif path.is_symlink() and not path.exists():
                not_followed["are broken"].append(path)
            elif not (path.is_symlink() and path.resolve().is_relative_to(results)):
                files.append(path)
        links.sort()
    return sorted(files)
