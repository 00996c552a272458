"""`cutout models`: list and download weights."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cutout.app.cli.console import console, download_bar, escape, print_list, say
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.models.catalog import CHECKPOINTS, Checkpoint, find

cli = typer.Typer(no_args_is_help=True, help="Manage the weights on this machine.")


@cli.command("list")
def list_models() -> None:
    """List the checkpoints, their licences, and whether they are downloaded."""
    from cutout.inference.errors import LicenceNotAccepted, WeightsUnavailable

    folder = load_settings().models_folder
    table = Table(box=None, pad_edge=False)
    for column in ("checkpoint", "description", "licence", "state"):
        table.add_column(column, overflow="fold")
    for checkpoint in CHECKPOINTS.values():
        try:
            folder.check(checkpoint)
            folder.verify(checkpoint)
            state = "[green]ready[/green]"
        except LicenceNotAccepted:
            state = "licence not accepted: pull with --accept-licence"
        except WeightsUnavailable:
            state = (
                "[red]damaged[/red]: pull it again"
                if folder.file(checkpoint).is_file()
                else "not downloaded: pull it"
            )
        licence = f"{checkpoint.licence.name}: {checkpoint.licence.summary}"
        table.add_row(checkpoint.name, checkpoint.description, licence, state)
    print_list(table)


@cli.command()
def pull(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Default: the checkpoints that this host would download automatically."
        ),
    ] = None,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the licences of the named checkpoints.")
    ] = False,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="FOLDER", help="Look in this folder before any download.")
    ] = None,
) -> None:
    """Download missing weights and verify them. Incomplete or damaged files are never installed."""
    settings = load_settings(models_from=source)
    if names:
        wanted = [find(name) for name in names]
    else:
        from cutout.app.bootstrap import fetched_unasked

        folder = settings.models_folder
        wanted = [
            checkpoint for checkpoint in fetched_unasked(settings) if folder.licence_accepted(checkpoint)
        ]
    for checkpoint in wanted:
        pull_one(settings, checkpoint, accept_licence)


@cli.command()
def path(
    name: Annotated[
        str | None, typer.Argument(help="A checkpoint. Default: the folder of all checkpoints.")
    ] = None,
) -> None:
    """Print the path of the weights, whether or not they are downloaded."""
    folder = load_settings().models_folder
    typer.echo(folder.file(find(name)) if name else folder.path)


def pull_one(settings: Settings, checkpoint: Checkpoint, accept_licence: bool = False) -> None:
    """Download one checkpoint if it is missing, with a progress bar; ask for its licence on a terminal.

    Raises:
        LicenceNotAccepted: the licence was not accepted, and there is no terminal to ask, or the user declined.
        WeightsUnavailable: no source could provide the weights.

    """
    from cutout.inference.weights import download

    folder = settings.models_folder
    licence = checkpoint.licence
    if not folder.licence_accepted(checkpoint):
        question = (
            f"{checkpoint.name} is under {licence.name} ({licence.url}): {licence.summary}. Do you accept?"
        )
        if accept_licence or (console.is_terminal and typer.confirm(question, err=True)):
            folder.accept_licence(checkpoint)
    was_there = folder.file(checkpoint).is_file()
    with download_bar() as bar:
        task = bar.add_task(f"{checkpoint.name} ({licence.name})", total=None, visible=False)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, visible=True)

        origin = download.pull(folder, checkpoint, settings.models_from, progress)
    verb = "is already installed" if was_there else "downloaded"
    say(f"{checkpoint.name} {verb}: {escape(str(folder.file(checkpoint)))} (from {escape(origin)})")
