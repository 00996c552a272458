"""What the command line says: to stderr, so that a picture or a list can go to stdout."""

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

# Of a list that is piped.
LONGEST_LINE = 10_000


class PlainConsole(Console):
    """A console that no text controls, whatever its source: file names, other hosts' words, errors."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """Render as `Console` does, with control characters in a text written out."""
        for segment in super().render(renderable, options):
            if segment.control:  # the console's own
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)


console = PlainConsole(stderr=True, soft_wrap=True, highlight=False)


class CommandError(OperatorError):
    """A command cannot do what was asked; the message is one line for the user."""


def print_list(table: Table) -> None:
    """Print what a command was asked for, to stdout. Nothing is cut off, also where it is piped."""
    # A file or a pipe has no width, and rich would take 80 columns.
    width = None if sys.stdout.isatty() else LONGEST_LINE
    for column in table.columns:
        column.overflow = "fold"
    PlainConsole(highlight=False, width=width).print(table)


def say(text: str) -> None:
    """Print one line of rich's markup."""
    console.print(text)


def escape(text: str) -> str:
    """Return a text as one line of rich's markup that shows it: neither its markup nor its control characters count."""
    return markup.escape(printable(text))


def loading() -> Status:
    """Show that the models are being loaded, while that takes its time."""
    return console.status(
        "Loading the models (the first time on a CPU prepares them, 10 s, RMBG-2.0 some 45 s) …"
    )


def download_bar() -> Progress:
    """Return a progress bar that counts bytes; in a log file, which cannot be redrawn, it stays away."""
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    )


def photo_bar() -> Progress:
    """Return a progress bar that counts photos, likewise."""
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    return Progress(
        TextColumn("{task.description}"), *columns, console=console, disable=not console.is_terminal
    )
