"""Results on disk and on the terminal."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Return what a figure depends on: device, cores, versions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name()
        if cuda
        else f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "cutout": version("cutout-server"),
    }


def save(name: str, figures: dict[str, Any]) -> None:
    """Write one benchmark's figures beside those of other devices, and say where."""
    about = machine()
    device = (
        "".join(character if character.isalnum() else "-" for character in about["device"]).strip("-").lower()
    )
    file = RESULTS / f"{name}-{device}.json"
    RESULTS.mkdir(exist_ok=True)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    file.write_text(json.dumps({"benchmark": name, "date": date, **about, **figures}, indent=2) + "\n")
    Console().print(f"{file.relative_to(Path.cwd())}")


def show(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
