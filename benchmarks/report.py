"""Output of results: on the terminal, as JSON with the machine's name, and as tables in docs/performance.md."""

import importlib.util
import json
import os
import platform
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cutout.version import __version__

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "performance.md"
INTRODUCTION = """# Performance

Made by `python -m benchmarks` from the files in `benchmarks/results`; do not edit. Machines differ and are noisy: read
ratios, and figures of one run side by side.
"""


@dataclass(frozen=True)
class Table:
    """A table of text; `title` says what was measured, and how."""

    title: str
    columns: list[str]
    rows: list[list[str]]


def publish(name: str, tables: list[Table], figures: dict[str, Any]) -> None:
    """Print the tables, save them with the figures, and rewrite the page of all results."""
    for table in tables:
        print(as_markdown(table))
    about = machine()
    file = RESULTS / f"{name}-{slug(about['device'])}.json"
    RESULTS.mkdir(exist_ok=True)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    content = {
        "benchmark": name,
        "date": date,
        **about,
        **figures,
        "tables": [asdict(table) for table in tables],
    }
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if importlib.util.find_spec("matplotlib"):
        from benchmarks import plots

        plots.draw(content, _picture(file))
    PAGE.write_text(page())
    print(f"{file.name} and {PAGE.name} written.")


def slug(device: str) -> str:
    """Return a device's name as a part of a file's name."""
    return "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())


def machine() -> dict[str, Any]:
    """Return what the figures depend on: device, cores, versions."""
    cuda = torch.cuda.is_available()
    return {
        "device": torch.cuda.get_device_name()
        if cuda
        else f"CPU, {os.cpu_count()} cores, {platform.machine()}",
        "python": platform.python_version(),
        "torch": version("torch"),
        "cutout": __version__,
    }


def page() -> str:
    """Return the page of all results, with the newest figures of each benchmark and device."""
    parts = [INTRODUCTION]
    for file in sorted(RESULTS.glob("*.json")):
        result = json.loads(file.read_text())
        parts.append(f"## {result['benchmark']}: {result['device']}\n")
        parts.append(f"{result['date'][:10]}, Python {result['python']}, torch {result['torch']}\n")
        if _picture(file).exists():
            parts.append(f"![{file.stem}]({_picture(file).relative_to(PAGE.parent)})\n")
        parts += [as_markdown(Table(**table)) for table in result["tables"]]
    return "\n".join(parts)


def _picture(result: Path) -> Path:
    return PAGE.parent / "images" / f"performance-{result.stem}.svg"


def as_markdown(table: Table) -> str:
    """Return a table as Markdown, with its title."""
    width = len(table.columns)
    lines = [table.columns, ["---"] * width, *(row + [""] * (width - len(row)) for row in table.rows)]
    return f"{table.title}:\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)
