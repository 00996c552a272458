"""What the command line says: to stderr, so that a picture can go to stdout."""

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

console = Console(stderr=True, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """Print one line of rich's markup."""
    console.print(text)


def download_bar() -> Progress:
    """Return a progress bar that counts bytes."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=console,
    )
