"""`cutout doctor --measure-backends`: which library runs each network fastest on this GPU."""

from collections.abc import Callable
from functools import partial

from rich.status import Status

from cutout.app.cli.console import console, escape, say
from cutout.app.config.settings import Settings
from cutout.inference.tiers import Tier


def measure_backends(settings: Settings, device: str | None, good: Callable[[str], None]) -> None:
    """Measure the checkpoints that serve the tiers, and print which library `CUTOUT_GPU_BACKEND=auto` uses from now on."""
    from cutout.inference.backends.measure_backends import measure_backends as measure
    from cutout.inference.errors import ModelUnavailable
    from cutout.inference.tiers import choose

    say("\n[bold]Backends[/bold]")
    if device != "cuda":
        say("  [dim]·[/dim] nothing to measure: CUTOUT_GPU_BACKEND is for GPUs")
        return
    checkpoints = {}
    for tier in Tier:
        try:
            checkpoint = choose(tier, settings.models_folder, settings.tier_orders).checkpoint
        except ModelUnavailable:
            continue  # the list of tiers says so
        checkpoints[checkpoint.name] = checkpoint
    for name, checkpoint in checkpoints.items():
        try:
            measured = measure(
                checkpoint,
                settings.models_folder,
                settings.precision,
                settings.limits.batch_on("cuda"),
                partial(_measuring, name),
            )
        except ModelUnavailable as error:
            say(f"  [red]✗[/red] {escape(f'{name}: {error}')}")
            continue
        good(f"{name}: {measured.library}, {measured.reason}")


def _measuring(name: str, library: str) -> Status:
    """Return a spinner to show while a library is opened and measured."""
    return console.status(escape(f"Measuring {name} in {library} (TensorRT prepares itself for minutes) …"))
