"""`cutout models`: list and download weights."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from cutout.app.cli.console import CommandError, console, download_bar, escape, print_list, say
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.inference.tiers import Tier
from cutout.inference.weights import own
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
    for checkpoint in (*CHECKPOINTS.values(), *own.own_checkpoints(folder).values()):
        try:
            folder.check(checkpoint)
            folder.verify(checkpoint)
            state = "[green]ready[/green]"
        except LicenceNotAccepted:
            state = "licence not accepted: pull with --accept-licence"
        except WeightsUnavailable:
            again = "add it again" if checkpoint.like else "pull it again"
            state = (
                f"[red]damaged[/red]: {again}"
                if folder.file(checkpoint).is_file()
                else "not downloaded: pull it"
            )
        if checkpoint.like and checkpoint.name in CHECKPOINTS:
            state = "its name is now that of another checkpoint: add it under another"
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
        wanted = [_published(settings, name) for name in names]
    else:
        from cutout.app.bootstrap import fetched_unasked

        folder = settings.models_folder
        named = [checkpoint for order in settings.tier_orders.values() for checkpoint in order]
        wanted = [
            checkpoint
            for checkpoint in dict.fromkeys([*fetched_unasked(settings), *named])
            if checkpoint.like is None and folder.licence_accepted(checkpoint)
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
    typer.echo(folder.file(own.find(folder, name)) if name else folder.path)


@cli.command()
def add(
    file: Annotated[
        Path, typer.Argument(help="The weights: a safetensors file, or a .pth file that holds nothing else.")
    ],
    like: Annotated[
        str,
        typer.Option(metavar="CHECKPOINT", help="The checkpoint whose network and preprocessing they have."),
    ],
    name: Annotated[
        str, typer.Option(help="Their name: lower-case letters, digits, dots and hyphens, such as shop-v3.")
    ],
    input_size: Annotated[
        int | None,
        typer.Option(metavar="PIXELS", help="Side of the network's input, if not that of the checkpoint."),
    ] = None,
    patch_order: Annotated[
        Literal["wg hg c", "c hg wg"] | None,
        typer.Option(help="BiRefNet's order of patches, if not that of the checkpoint."),
    ] = None,
    replacing: Annotated[
        bool, typer.Option("--replace", help="Replace the weights that have this name.")
    ] = False,
) -> None:
    """Add weights of your own as a checkpoint, which the tiers may use. They are copied into the models folder."""
    from cutout.inference.selftest.checklist import Failed, Skipped
    from cutout.inference.selftest.weights import order_fits_file

    folder = load_settings().models_folder
    unlike = own.Unlike(input_size, patch_order)
    checkpoint = own.add(folder, file, name, like, unlike, replacing=replacing)
    say(f"{name} is a checkpoint now, like {like}: {escape(str(folder.file(checkpoint)))}")
    say(f"SHA-256 {checkpoint.sha256}")
    try:
        order_fits_file(folder.file(checkpoint), checkpoint)
    except Skipped:
        pass
    except Failed as error:
        say(f"[yellow]note:[/yellow] {escape(f'{error.text}. {error.fix}')}")
    if not any(name in load_settings().names_of(tier) for tier in Tier):
        say(
            f"To use it, name it first for a tier, such as CUTOUT_TIER_STANDARD={name}, and start the service anew."
        )


@cli.command()
def remove(name: Annotated[str, typer.Argument(help="A checkpoint that was added with add.")]) -> None:
    """Remove weights of your own."""
    settings = load_settings()
    users = [f"CUTOUT_TIER_{tier.upper()}" for tier in Tier if name in settings.names_of(tier)]
    if users:
        raise CommandError(f"{name} is in use: remove it from {', '.join(users)} first.")
    own.remove(settings.models_folder, name)
    say(f"{name} is removed.")


def _published(settings: Settings, name: str) -> Checkpoint:
    """Return a checkpoint of the catalogue; own weights cannot be downloaded."""
    ours = own.own_checkpoints(settings.models_folder)
    if name in ours and name not in CHECKPOINTS:
        raise CommandError(f"{name} is your own and cannot be downloaded; run: {ours[name].install_command}")
    return find(name)


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
