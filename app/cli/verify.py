"""`cutout verify`: run the whole checklist against a running deployment."""

import asyncio
import json
from collections import Counter
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from cutout.app.cli.console import console, escape, say
from cutout.app.config.settings import VERIFY_KEY
from cutout.inference.tiers import SOLD, Tier

if TYPE_CHECKING:  # the import of the database library alone takes longer than most commands
    from cutout.app.verify.checklist import Result

MARKS = {
    "passed": "[green]✓[/green]",
    "warned": "[yellow]![/yellow]",
    "failed": "[red]✗[/red]",
    "skipped": "[dim]–[/dim]",
}
COLOURS = {"passed": "default", "warned": "yellow", "failed": "red", "skipped": "dim"}


def verify(
    url: Annotated[str, typer.Argument(help="URL of the service.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None,
        typer.Option(envvar=VERIFY_KEY, help="An API key; not needed without authentication."),
    ] = None,
    tiers: Annotated[
        list[Tier] | None,
        typer.Option("--tier", help="A tier to test; can be repeated. Default: all four that are sold."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Also fail if a step is slow or a model is a substitute.")
    ] = False,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit of each step, in seconds.")] = 120,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each step to stdout as a line of JSON.")
    ] = False,
) -> None:
    """Test a running deployment with real, paid requests: a photo and a batch. The exit code is 1 if anything fails."""
    try:
        results = asyncio.run(_walk(url, key, tiers or list(SOLD), strict, timeout, as_json))
    except KeyboardInterrupt:
        say("Stopped.")
        raise typer.Exit(130) from None
    counts = Counter(result.outcome.value for result in results)
    if as_json:
        typer.echo(json.dumps({"ok": counts["failed"] == 0, **{name: counts[name] for name in MARKS}}))
    else:
        _sum_up(results, counts)
    if counts["failed"]:
        raise typer.Exit(1)


async def _walk(
    url: str, key: str | None, tiers: list[Tier], strict: bool, timeout: float, as_json: bool
) -> "list[Result]":
    from cutout.app.verify.checklist import Step, walk
    from cutout.app.verify.checks import Visit
    from cutout.app.verify.client import Client

    client = Client(url, key)
    results = []
    live = nullcontext() if as_json else console.status("")
    with live as status:

        def show(text: str) -> None:
            if status is not None:
                status.update(escape(text))

        def begin(step: Step) -> None:
            show(f"{step.name} …")

        if not as_json:
            say(f"[bold]{escape(client.shown)}[/bold]")
        async with client, Visit(client, tiers, lambda text: show(f"batch: {text} …")) as visit:
            async for result in walk(visit, seconds=timeout, strict=strict, begin=begin):
                results.append(result)
                if as_json:
                    typer.echo(json.dumps(_line(result)))
                else:
                    _say(result)
    return results


def _line(result: "Result") -> dict[str, object]:
    target = result.step.target
    return {
        "step": result.step.name,
        "outcome": result.outcome,
        "seconds": None if result.seconds is None else round(result.seconds, 3),
        "targetSeconds": target.high if target else None,
        "detail": result.detail,
    }


def _say(result: "Result") -> None:
    time = "" if result.seconds is None else f"{result.seconds:.2f} s"
    target = f"of {result.step.target}" if result.step.target and time else ""
    outcome = result.outcome.value
    detail = f"[{COLOURS[outcome]}]{escape(result.detail)}[/]"
    say(f"{MARKS[outcome]} {result.step.name:<21}{time:>8} {target:<10} {detail}")


def _sum_up(results: "list[Result]", counts: Counter[str]) -> None:
    rest = "".join(
        f", {counts[name]} {word}"
        for name, word in (("warned", "with warnings"), ("skipped", "skipped"))
        if counts[name]
    )
    seconds = sum(result.seconds or 0 for result in results)
    if counts["failed"]:
        names = ", ".join(result.step.name for result in results if result.outcome.value == "failed")
        say(
            f"[red]Verification failed:[/red] {names} failed{rest}, {counts['passed']} passed in {seconds:.1f} s."
        )
    else:
        say(f"[green]Verified:[/green] {counts['passed']} passed{rest} in {seconds:.1f} s.")
