"""`cutout mcp`: tools for assistants that run on the same machine, by the Model Context Protocol."""

from pathlib import Path
from typing import Annotated

import typer

from cutout.app.cli.console import CommandError, escape, say
from cutout.app.config.settings import load as load_settings

MISSING = "The MCP server is an extra that is not installed: pip install 'cutout-server[mcp]'."

ROOT = (
    "The current folder is /, and an assistant may use the current folder with all below it. Name the folders that it may"
    " use with --folder."
)


def mcp(
    folders: Annotated[
        list[Path] | None,
        typer.Option(
            "--folder",
            help="A folder whose photos may be read and where results may be written, with all below it; may be given"
            " several times. Default: the current folder.",
        ),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
) -> None:
    """Serve assistants, such as Claude Desktop or an editor, on stdin and stdout. They start this command themselves."""
    from cutout.app.cli.mcp_files import Folders

    try:
        from cutout.app.cli.mcp_server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("mcp", "mcp_types"):
            raise
        raise CommandError(MISSING) from None
    if not folders and Path.cwd() == Path("/"):  # where some assistants start commands
        raise CommandError(ROOT)
    settings = load_settings(device=device)
    allowed = Folders(folders or [Path()])
    say(f"Serving MCP for {escape(', '.join(map(str, allowed.roots)))}.")
    serve(settings, allowed)
