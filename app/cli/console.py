"""Output of the command line: messages go to stderr, so that a picture or a list can go to stdout."""

import sys
from collections.abc import Iterator

from rich import markup
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.segment import Segment
from rich.status import Status
from rich.table import Table

from cutout.app.core.errors import OperatorError
from cutout.app.core.printable import printable

# Width of a list that is piped.
LONGEST_LINE = 10_000


class PlainConsole(Console):
    """A console that escapes control characters in all text, such as file names, remote responses and errors."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as `Console` does, with control characters in text escaped."""
        for segment in super().render(renderable, options):
            if segment.control:  # control codes of the console itself
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


console = PlainConsole(stderr=True, soft_wrap=True, highlight=False)


class CommandError(OperatorError):
    """A command cannot do what the user asked. The message is one line for the user."""


def print_list(table: Table) -> None:
    """Print a table to stdout. No cell is truncated, even if the output is piped."""
    # A file or a pipe has no width, and rich would assume 80 columns.
    width = None if sys.stdout.isatty() else LONGEST_LINE
    for column in table.columns:
        column.overflow = "fold"
    PlainConsole(highlight=False, width=width).print(table)


def say(text: str) -> None:
    """Print one line of rich markup to stderr."""
    console.print(text)


def escape(text: str) -> str:
    """Return rich markup that shows the text literally, in one line, with markup and control characters escaped."""
    return markup.escape(printable(text))


def loading() -> Status:
    """Return a status display to show while the models are being loaded."""
    return console.status(
        "Loading the models (on a CPU they are prepared and timed the first time: 20 s, RMBG-2.0 about 45 s) …"
    )


def download_bar() -> Progress:
    """Return a progress bar that counts bytes; it is disabled unless stderr is a terminal."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    )


def photo_bar() -> Progress:
    """Return a progress bar that counts photos; it is disabled unless stderr is a terminal."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    )
