"""`cutout`: remove | serve | worker | verify | models | doctor | migrate | users | keys | credits."""

import logging
import sys

import typer

from cutout import __version__
from cutout.app.cli import accounts, doctor, models, remove, serve, verify, worker
from cutout.app.cli.console import escape, say
from cutout.app.config.settings import SettingsError
from cutout.app.core.errors import OperatorError
from cutout.app.core.printable import PrintableFormatter
from cutout.inference.errors import CutoutError
from cutout.models.catalog import UnknownCheckpoint

# What the user can mend.
TOLD = (OperatorError, CutoutError, UnknownCheckpoint)

cli = typer.Typer(
    name="cutout",
    help="Remove photo backgrounds on your own machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
cli.command("remove")(remove.remove)
cli.command("serve")(serve.serve)
cli.command("worker")(worker.worker)
cli.command("verify")(verify.verify)
cli.add_typer(models.cli, name="models")
cli.command("doctor")(doctor.doctor)
cli.command("migrate")(accounts.migrate)
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
) -> None:
    pass


def main() -> None:
    """Run the command line; what the user can mend is said in a line, without a traceback."""
    # Where nobody has set up to log, warnings come as they are, and may repeat others' words.
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(PrintableFormatter())
    try:
        cli()
    except TOLD as error:
        # Settings are a line each; in all else a line's end is of somebody's text.
        for line in str(error).split("\n") if isinstance(error, SettingsError) else [str(error)]:
            say(f"[red]error:[/red] {escape(line)}")
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)  # whoever read our output has left
