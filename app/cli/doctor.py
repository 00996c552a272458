"""`cutout doctor`: check what this host can do and what serves each tier, and say how to fix problems."""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from cutout.app.cli.console import escape, say
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.inference.tiers import Choice, Tier
from cutout.models.catalog import CHECKPOINTS
from cutout.version import __version__


def doctor(
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
    measure_backends: Annotated[
        bool, typer.Option("--measure-backends", help="Measure which library is fastest on this GPU.")
    ] = False,
) -> None:
    """Check device, backends, weights and licences, or token and providers. Exit code 1 if a tier cannot be served."""
    from cutout.inference.errors import ModelUnavailable
    from cutout.inference.tiers import choose

    settings = load_settings(device=device)
    folder = settings.models_folder

    say(f"[bold]cutout {__version__}[/bold] on Python {platform.python_version()}, {platform.platform()}")

    target, healthy = _device(settings)
    if target == "huggingface":
        if not (_remote_tiers(settings) and healthy):
            raise typer.Exit(1)
        return

    if measure_backends:
        from cutout.app.cli import measure

        measure.measure_backends(settings, target, _good)
    _weights(settings, target)
    say("\n[bold]Tiers[/bold]")
    for tier in Tier:
        try:
            choice = choose(tier, folder)
        except ModelUnavailable as error:
            healthy = False
            _bad(f"{tier.value}: {error}")
            continue
        healthy &= _tell(choice, strict=settings.strict_models)
    if not healthy:
        raise typer.Exit(1)


def _device(settings: Settings) -> tuple[str | None, bool]:
    """Show the device and the libraries. Return the device, None if it cannot be used, and whether it can."""
    from cutout.app.bootstrap import device_of
    from cutout.inference.backends.runners import device_name
    from cutout.inference.errors import DeviceUnavailable

    healthy, target = True, None
    say("\n[bold]Device[/bold]")
    try:
        target = device_of(settings)
        if target == "huggingface":
            _good(f"huggingface (CUTOUT_DEVICE={settings.device}): photos are sent there")
        else:
            _good(f"{device_name(target)} (CUTOUT_DEVICE={settings.device})")
    except DeviceUnavailable as error:
        healthy = False
        _bad(str(error))
    for package in ("torch", "MNN", "onnxruntime", "onnxruntime-gpu"):
        try:
            _good(f"{package} {version(package)}")
        except PackageNotFoundError:
            _plain(f"{package} is not installed")
    return target, healthy


def _weights(settings: Settings, target: str | None) -> None:
    """Show which checkpoints are here, what they run in on this device, and the free space beside them."""
    from cutout.inference.backends.gpu_backends import dtype_of, gpu_library
    from cutout.inference.backends.runners import cpu_library
    from cutout.inference.errors import ModelUnavailable

    folder = settings.models_folder
    say(f"\n[bold]Weights[/bold] in {escape(str(folder.path))}")
    for checkpoint in CHECKPOINTS.values():
        try:
            folder.check(checkpoint)
            folder.verify(checkpoint)
            record = folder.record(checkpoint)
            line = f"{checkpoint.name}: ready, from {record.source if record else 'a manually placed file'}"
            if target == "cpu":
                library, reason = cpu_library(checkpoint, folder, settings.precision)
                line += f"; runs in {library} ({reason})"
            if target == "cuda":
                batch, dtype = settings.limits.batch_on(target), dtype_of(settings.precision)
                library, reason = gpu_library(settings.gpu_backend, checkpoint, folder, dtype, batch)
                line += f"; runs in {library} ({reason})"
            _good(line)
        except ModelUnavailable as error:
            (_warn if checkpoint.fetch != "never" else _plain)(str(error))
    existing = next(parent for parent in (folder.path, *folder.path.parents) if parent.exists())
    free = shutil.disk_usage(existing).free / 1e9
    (_good if free > 2 else _warn)(f"{free:.0f} GB free")


def _remote_tiers(settings: Settings) -> bool:
    """Check token and providers at Hugging Face. Return whether the token is valid and each tier can be served."""
    from cutout.inference.errors import ModelUnavailable
    from cutout.inference.huggingface.client import whoami
    from cutout.inference.huggingface.dispatcher import choose_remote

    access = settings.access
    say("\n[bold]Hugging Face[/bold]")
    healthy = True
    if access.token is None:
        _plain("CUTOUT_HF_INFERENCE_TOKEN is not set; the endpoint is called without a token")
    else:
        try:
            _good(f"CUTOUT_HF_INFERENCE_TOKEN is a token of {whoami(access)}")
        except ModelUnavailable as error:
            healthy = False
            _bad(str(error))
    say("\n[bold]Tiers[/bold]")
    try:
        choices = choose_remote(access, Tier)
    except ModelUnavailable as error:
        _bad(str(error))
        return False
    for choice, offer in choices:
        healthy &= _tell(choice, f", by {offer.backend}", strict=settings.strict_models)
    return healthy


def _tell(choice: Choice, by: str = "", *, strict: bool) -> bool:
    """Print what serves a tier. Return False if it is a substitute and `strict` forbids that."""
    tier, name, recipe = choice.tier.value, choice.checkpoint.name, choice.recipe.value
    if not choice.substitute:
        _good(f"{tier}: {name}{by}, recipe {recipe}")
        return True
    line = f"{tier}: {name}{by} is a substitute for {choice.wanted}, recipe {recipe} ({'; '.join(choice.passed_over)})"
    if strict:
        _bad(f"{line}; CUTOUT_STRICT_MODELS=1 forbids substitutes")
        return False
    _warn(line)
    return True


def _good(text: str) -> None:
    say(f"  [green]✓[/green] {escape(text)}")


def _plain(text: str) -> None:
    say(f"  [dim]·[/dim] {escape(text)}")


def _warn(text: str) -> None:
    say(f"  [yellow]![/yellow] {escape(text)}")


def _bad(text: str) -> None:
    say(f"  [red]✗[/red] {escape(text)}")
