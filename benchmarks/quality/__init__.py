"""Quality of the cut-outs: scenes with known alpha and colours, error measures, and result tables."""

import importlib
from types import ModuleType


def run() -> None:
    """Measure the tiers' cost, the recipes alone, the tiers end to end, the second look, the tiers' order, and halos."""
    for name in ("cost", "recipe", "whole", "second", "order", "halo"):
        part(name).run()


def part(name: str) -> ModuleType:
    """Import a module of this package.

    Raises:
        SystemExit: OpenCV, pymatting, scikit-image or another package of this benchmark is not installed.

    """
    try:
        return importlib.import_module(f"benchmarks.quality.{name}")
    except ModuleNotFoundError as error:
        raise SystemExit(f"{error.name} is missing; run: make quality") from error
