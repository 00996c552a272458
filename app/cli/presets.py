"""`cutout presets`: list the presets with the pages that they come from."""

from rich.table import Table

from cutout.app.cli.console import escape, print_list
from cutout.app.config.settings import load as load_settings
from cutout.inference.presets import load_presets


def presets() -> None:
    """List the presets of this machine, what they set, and the pages that state the requirements."""
    table = Table(box=None, pad_edge=False)
    for column in ("preset", "title", "options", "source", "what it asks for"):
        table.add_column(column, overflow="fold")
    for preset in load_presets(load_settings().presets).values():
        options = ", ".join(f"{name}={value}" for name, value in preset.given.items())
        table.add_row(*map(escape, (preset.name, preset.title, options, preset.source, preset.asks)))
    print_list(table)
