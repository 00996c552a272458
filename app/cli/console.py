"""What the command line says: to stderr, so that a picture can go to stdout."""

from rich.console import Console
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
from rich.status import Status

from app.codes import Explained

console = Console(stderr=True, soft_wrap=True, highlight=False)


class CommandError(Explained):
    """A command cannot do what was asked; the message is one line for the user."""


def say(text: str) -> None:
    """Print one line of rich's markup."""
    console.print(text)


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
