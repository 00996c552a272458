"""`cutout doctor`: what this host can do, what each tier would use and why, and what to do about the rest."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.markup import escape

import app
from app.cli.console import say
from app.settings import load as load_settings
from inference.tiers import Tier
from models.catalog import CHECKPOINTS


def doctor(
    device: Annotated[str | None, typer.Option(help="auto, cuda or cpu.")] = None,
) -> None:
    """Check device, backends, weights and licences. Exit code 1 if a tier could not be served."""
    from inference.errors import DeviceUnavailable, ModelUnavailable
    from inference.runners import cpu_backend, device_name, pick_device
    from inference.tiers import choose

    settings = load_settings(device=device)
    folder = settings.models_folder
    healthy = True

    say(f"[bold]cutout {app.__version__}[/bold] on Python {platform.python_version()}, {platform.platform()}")

    say("\n[bold]Device[/bold]")
    try:
        target = pick_device(settings.device)
        backend = "torch" if target == "cuda" else cpu_backend()
        _good(f"{device_name(target)} (CUTOUT_DEVICE={settings.device}); networks run in {backend}")
        if target == "cpu" and backend == "torch":
            _warn("ONNX Runtime is up to 1.7 times faster here; run: pip install 'cutout-server[cpu]'")
    except DeviceUnavailable as error:
        healthy = False
        _bad(str(error))
    for package in ("torch", "onnxruntime", "onnxruntime-gpu"):
        try:
            _good(f"{package} {version(package)}")
        except PackageNotFoundError:
            _plain(f"{package} is not installed")

    say(f"\n[bold]Weights[/bold] in {escape(str(folder.path))}")
    for checkpoint in CHECKPOINTS.values():
        try:
            folder.check(checkpoint)
            folder.verify(checkpoint)
            record = folder.record(checkpoint)
            _good(f"{checkpoint.name}: ready, from {record.source if record else 'a file placed by hand'}")
        except ModelUnavailable as error:
            (_warn if checkpoint.fetch != "never" else _plain)(str(error))
    existing = next(parent for parent in (folder.path, *folder.path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    (_good if free > 2 else _warn)(f"{free:.0f} GB free")

    say("\n[bold]Tiers[/bold]")
    for tier in Tier:
        try:
            choice = choose(tier, folder)
        except ModelUnavailable as error:
            healthy = False
            _bad(f"{tier.value}: {error}")
            continue
        if not choice.substitute:
            _good(f"{tier.value}: {choice.checkpoint.name}, recipe {choice.recipe.value}")
            continue
        reasons = "; ".join(choice.passed_over)
        line = f"{tier.value}: {choice.checkpoint.name} stands in for {choice.wanted}, recipe {choice.recipe.value} ({reasons})"
        if settings.strict_models:
            healthy = False
            _bad(f"{line}; CUTOUT_STRICT_MODELS=1 refuses that")
        else:
            _warn(line)
    if not healthy:
        raise typer.Exit(1)


def _good(text: str) -> None:
    say(f"  [green]✓[/green] {escape(text)}")


def _plain(text: str) -> None:
    say(f"  [dim]·[/dim] {escape(text)}")


def _warn(text: str) -> None:
    say(f"  [yellow]![/yellow] {escape(text)}")


def _bad(text: str) -> None:
    say(f"  [red]✗[/red] {escape(text)}")
