"""`cutout`: remove, presets, init, serve, mcp, worker, verify, compat-check, models, doctor, migrate, backup, restore,
users, keys, credits.
"""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from cutout.app.cli import (
    accounts,
    backup,
    compat_check,
    doctor,
    init,
    mcp,
    models,
    presets,
    remove,
    serve,
    verify,
    worker,
)
from cutout.app.cli.console import escape, say
from cutout.app.config.base import SettingsError
from cutout.app.core.errors import OperatorError
from cutout.app.core.printable import PrintableFormatter
from cutout.inference.errors import CutoutError
from cutout.models.catalog import UnknownCheckpoint
from cutout.version import __version__

# Errors that the user can fix; they are shown in one line, without a traceback.
TOLD = (OperatorError, CutoutError, UnknownCheckpoint)

cli = typer.Typer(
    name="cutout",
    help="Remove photo backgrounds on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("remove")(remove.remove)
cli.command("presets")(presets.presets)
cli.command("init")(init.init)
cli.command("serve")(serve.serve)
cli.command("mcp")(mcp.mcp)
cli.command("worker")(worker.worker)
cli.command("verify")(verify.verify)
cli.command("compat-check")(compat_check.compat_check)
cli.add_typer(models.cli, name="models")
cli.command("doctor")(doctor.doctor)
cli.command("migrate")(accounts.migrate)
cli.command("backup")(backup.backup)
cli.command("restore")(backup.restore)
cli.add_typer(accounts.users, name="users")
cli.add_typer(accounts.keys, name="keys")
cli.add_typer(accounts.credits, name="credits")


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cutout {__version__}")
        raise typer.Exit


@cli.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
    env_file: Annotated[
        Path | None,
        typer.Option(help="Read settings from this file, such as cutout.env; variables that are set win."),
    ] = None,
) -> None:
    init.use_env_file(env_file)


def main() -> None:
    """Run the command line; errors that the user can fix are shown in one line, without a traceback."""
    # Before logging is configured, warnings go to the last-resort handler, and may contain text from remote hosts.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        cli()
    except TOLD as error:
        # A SettingsError has one line per setting. In other errors, a line break can only come from quoted text.
        for line in str(error).split("\n") if isinstance(error, SettingsError) else [str(error)]:
            say(f"[red]error:[/red] {escape(line)}")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # the reader of stdout has closed the pipe
