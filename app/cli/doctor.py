"""`cutout doctor`: check what this host can do and what serves each tier, and say how to fix problems.

With `--deep` it also runs the self-test of `cutout.inference.selftest` and shows what that finds.
"""

import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cutout.app.cli.console import CommandError, console, escape, say
from cutout.app.config.settings import Settings
from cutout.app.config.settings import load as load_settings
from cutout.inference.tiers import SOLD, Choice, Tier
from cutout.models.catalog import CHECKPOINTS
from cutout.version import __version__

if TYPE_CHECKING:
    from cutout.inference.selftest import Checklist, Finding, Plan

COPIED = " (copied at the first start)"


def doctor(
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also run the networks and compare their results: some minutes.")
    ] = False,
    report: Annotated[
        str | None,
        typer.Option(help="The JSON file that --deep writes; - for stdout. Default: named after the device."),
    ] = None,
    measure_backends: Annotated[
        bool, typer.Option("--measure-backends", help="Measure which library is fastest on this GPU.")
    ] = False,
) -> None:
    """Check device, backends, weights and licences, or token and providers. Exit code 1 if a tier cannot be served.

    With --deep, photos go through every tier and precision that this host has, and the exit code is also 1 if any of
    them is not as it should be.
    """
    from cutout.app.bootstrap import copied_at_start
    from cutout.inference.errors import ModelUnavailable
    from cutout.inference.tiers import choose

    settings = load_settings(device=device)
    if report is not None and not deep:
        raise CommandError("--report is for the self-test: add --deep.")
    folder = settings.models_folder

    say(f"[bold]cutout {__version__}[/bold] on Python {platform.python_version()}, {platform.platform()}")

    target, healthy = _device(settings)
    if target == "huggingface":
        if deep:
            raise CommandError(
                "Networks run at Hugging Face, so there is nothing to test here: add --device cpu or cuda."
            )
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
            choice = choose(tier, folder, settings.tier_orders)
        except ModelUnavailable as error:
            if coming := copied_at_start(settings, tier):
                healthy &= _tell(coming, COPIED, strict=settings.strict_models)
                continue
            healthy = False
            _bad(f"{tier.value}: {error}")
            continue
        healthy &= _tell(choice, strict=settings.strict_models)
    if deep:  # without the device, the report says why
        healthy &= _self_test(settings, target or "cuda", report)
    if not healthy:
        raise typer.Exit(1)


def _self_test(settings: Settings, target: Literal["cuda", "cpu"], report: str | None) -> bool:
    """Run the self-test and write its report. Return whether nothing failed."""
    from cutout.inference.selftest import Checklist, Outcome, Plan, installed, run

    say("\n[bold]Self-test[/bold]")
    subjects, unserved = installed(settings.models_folder, target, settings.tier_orders)
    plan = Plan(target, subjects, settings.models_folder, unserved, settings.precision, settings.limits)
    with console.status("") as status:
        checklist = Checklist(lambda name: status.update(f"{escape(name)} …"), _show)
        run(plan, checklist)
    failed = [finding for finding in checklist.findings if finding.outcome is Outcome.FAILED]
    passed = sum(finding.outcome is Outcome.PASSED for finding in checklist.findings)
    say("")
    if failed:
        say(f"[red]{len(failed)} checks failed[/red], {passed} passed in {checklist.elapsed:.0f} s.")
    else:
        say(f"[green]Nothing failed:[/green] {passed} checks passed in {checklist.elapsed:.0f} s.")
    _write(plan, checklist, report)
    return not failed


def _show(finding: "Finding") -> None:
    """Print a finding of the self-test and, if it is not as it should be, what to do."""
    mark = {"passed": _good, "warned": _warn, "failed": _bad, "skipped": _plain}[finding.outcome.value]
    about = finding.check + (f" ({finding.subject})" if finding.subject else "")
    mark(f"{about}: {finding.text}")
    if finding.advice:
        say(f"      {escape(finding.advice)}")


def _write(plan: "Plan", checklist: "Checklist", report: str | None) -> None:
    """Write the report where it is wanted. If that fails, say so: the results are on the screen."""
    from cutout.inference.selftest import as_json, write_report

    if report == "-":
        typer.echo(as_json(plan, checklist))
        return
    try:
        file = write_report(plan, checklist, None if report is None else Path(report))
    except OSError as error:
        _warn(f"The report cannot be written ({error.strerror}): choose another place with --report FILE.")
    else:
        say(f"Report, to keep or to send in: {escape(str(file.resolve()))}")


def _device(settings: Settings) -> tuple[Literal["cuda", "cpu", "huggingface"] | None, bool]:
    """Show the device and the libraries. Return the device, None if it cannot be used, and whether it can."""
    from cutout.app.bootstrap import device_of
    from cutout.inference.backends.gpu_support import unused_gpu
    from cutout.inference.backends.runners import device_name
    from cutout.inference.cores import multiplies_bfloat16
    from cutout.inference.errors import DeviceUnavailable

    healthy = True
    target: Literal["cuda", "cpu", "huggingface"] | None = None
    say("\n[bold]Device[/bold]")
    try:
        target = device_of(settings)
        if target == "huggingface":
            _good(f"huggingface (CUTOUT_DEVICE={settings.device}): photos are sent there")
        else:
            _good(f"{device_name(target)} (CUTOUT_DEVICE={settings.device})")
        if target != "cuda" and settings.device == "auto" and (reason := unused_gpu()):
            _warn(f"the GPU of this host is not used: {reason}")
    except DeviceUnavailable as error:
        healthy = False
        _bad(str(error))
    for package in ("torch", "MNN", "onnxruntime", "onnxruntime-gpu"):
        try:
            _good(f"{package} {version(package)}")
        except PackageNotFoundError:
            _plain(f"{package} is not installed")
    if target == "cpu" and settings.precision == "auto" and multiplies_bfloat16():
        _plain(
            "this processor has units for bfloat16 (AMX): with CUTOUT_PRECISION=bfloat16 networks take about half the"
            " time, and masks differ by up to 4 of 255 levels"
        )
    return target, healthy


def _weights(settings: Settings, target: str | None) -> None:
    """Show which checkpoints are here, what they run in on this device, and the free space beside them."""
    from cutout.inference.backends.gpu_backends import dtype_of, gpu_library
    from cutout.inference.backends.runners import cpu_library
    from cutout.inference.errors import ModelUnavailable
    from cutout.inference.weights.download import local_file
    from cutout.inference.weights.own import own_checkpoints

    folder = settings.models_folder
    say(f"\n[bold]Weights[/bold] in {escape(str(folder.path))}")
    for checkpoint in (*CHECKPOINTS.values(), *own_checkpoints(folder).values()):
        try:
            folder.check(checkpoint)
            folder.verify(checkpoint)
            record = folder.record(checkpoint)
            whose = f", your own weights, like {checkpoint.like}" if checkpoint.like else ""
            line = f"{checkpoint.name}: ready{whose}, from {record.source if record else 'a manually placed file'}"
            if target == "cpu":
                library, reason = cpu_library(checkpoint, folder, settings.precision)
                line += f"; runs in {library} ({reason})"
            if target == "cuda":
                batch, dtype = settings.limits.batch_on(target), dtype_of(settings.precision)
                library, reason = gpu_library(settings.gpu_backend, checkpoint, folder, dtype, batch)
                line += f"; runs in {library} ({reason})"
            _good(line)
        except ModelUnavailable as error:
            found = local_file(settings.models_from, checkpoint)
            if found and folder.licence_accepted(checkpoint) and not folder.file(checkpoint).is_file():
                _plain(f"{checkpoint.name}: not copied yet from {found}; run: {checkpoint.install_command}")
                continue
            (_warn if checkpoint.fetch != "never" or checkpoint.like else _plain)(str(error))
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
        choices = choose_remote(access, Tier, settings.tier_orders)
    except ModelUnavailable as error:
        _bad(str(error))
        return False
    for choice, offer in choices:
        healthy &= _tell(choice, f", by {offer.backend}", strict=settings.strict_models)
    return healthy


def _tell(choice: Choice, by: str = "", *, strict: bool) -> bool:
    """Print what serves a tier. Return False if it is a substitute and `strict` forbids that."""
    tier, name, recipe = choice.tier.value, choice.checkpoint.name, choice.recipe.value
    if choice.checkpoint.like:
        by = f" (your own weights){by}"
    if not choice.substitute:
        _good(f"{tier}: {name}{by}, recipe {recipe}")
        return True
    line = f"{tier}: {name}{by} is a substitute for {choice.wanted}, recipe {recipe} ({'; '.join(choice.passed_over)})"
    if strict and choice.tier in SOLD:
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
