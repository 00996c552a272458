"""`cutout compat-check`: try an integration's calls for another API on a running service."""

import asyncio
import json
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cutout.app.cli.console import console, escape, say
from cutout.app.compat_check.table import Api, Verdict
from cutout.app.config.settings import VERIFY_KEY
from cutout.app.core.errors import OperatorError

if TYPE_CHECKING:  # the library for requests takes long to import
    from cutout.app.compat_check.calls import Call
    from cutout.app.compat_check.check import Finding, Outcome
    from cutout.app.verify.client import Client

MARKS = {
    Verdict.IDENTICAL: "[green]✓[/green]",
    Verdict.IGNORED: "[dim]–[/dim]",
    Verdict.DIFFERENT: "[yellow]≈[/yellow]",
    Verdict.REFUSED: "[red]✗[/red]",
}
FAILED = "[red]✗[/red]"


class NoFile(OperatorError):
    """A given file cannot be read."""


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for."""

    url: str
    key: str | None
    apis: list[Api]
    free: bool
    image_url: str | None
    own: "Call | None"
    as_json: bool
    timeout: float


def compat_check(
    url: Annotated[str, typer.Argument(help="URL of the service.")] = "http://127.0.0.1:8000",
    key: Annotated[
        str | None,
        typer.Option(envvar=VERIFY_KEY, help="An API key; not needed without authentication."),
    ] = None,
    apis: Annotated[
        list[Api] | None,
        typer.Option("--api", case_sensitive=False, help="An API to try; can be repeated. Default: all."),
    ] = None,
    free: Annotated[bool, typer.Option("--free", help="Make only the calls that cost nothing.")] = False,
    image_url: Annotated[
        str | None, typer.Option(help="A photo's URL that the service can fetch, to try image_url and url.")
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option("--field", help="Try one call with this field instead, NAME=VALUE; can be repeated."),
    ] = None,
    curl: Annotated[
        Path | None,
        typer.Option(help="Try the call of a saved curl command instead; - reads it from stdin."),
    ] = None,
    photo: Annotated[Path | None, typer.Option(help="The photo of that call. Default: a drawn one.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Time limit of each API, in seconds.")] = 300,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print each row to stdout as a line of JSON.")
    ] = False,
) -> None:
    """Try calls for remove.bg, Photoroom and rembg on a running service. The exit code is 1 if one is worse than documented."""
    own = _own_call(apis or [], fields or [], curl, photo)
    try:
        good = asyncio.run(_run(Wanted(url, key, apis or list(Api), free, image_url, own, as_json, timeout)))
    except KeyboardInterrupt:
        say("Stopped.")
        raise typer.Exit(130) from None
    if not good:
        raise typer.Exit(1)


def _own_call(apis: list[Api], fields: list[str], curl: Path | None, photo: Path | None) -> "Call | None":
    from cutout.app.compat_check.own_call import NoCall, from_curl, from_fields
    from cutout.app.verify import images

    if not fields and curl is None:
        return None
    if fields and (curl is not None or len(apis) > 1):
        raise NoCall("Give either fields for one API, or a curl command.")
    try:
        data = images.photo() if photo is None else photo.read_bytes()
        if curl is None:
            return from_fields(apis[0] if apis else Api.REMOVEBG, fields, data)
        return from_curl(sys.stdin.read() if str(curl) == "-" else curl.read_text(), data)
    except (OSError, UnicodeDecodeError) as error:
        raise NoFile(f"{curl or photo} cannot be read ({error}).") from error


async def _run(wanted: Wanted) -> bool:
    """Make the calls and print what was found; return whether all is as documented."""
    from cutout.app.verify.client import Client, Failed

    client = Client(wanted.url, wanted.key)
    if not wanted.as_json:
        say(f"[bold]{escape(client.shown)}[/bold]")
    async with client:
        try:
            if wanted.own is not None:
                return await _run_own(client, wanted, wanted.own)
            return await _run_table(client, wanted)
        except (Failed, TimeoutError) as error:
            late = f"It was not done within {wanted.timeout:g} s. Set a longer --timeout."
            reason = str(error) if isinstance(error, Failed) else late
            if wanted.as_json:
                typer.echo(json.dumps({"ok": False, "error": reason}))
            else:
                say(f"[red]✗[/red] {escape(reason)}")
            return False


async def _run_table(client: "Client", wanted: Wanted) -> bool:
    from cutout.app.compat_check.check import check_api, costs_of, probes_for

    probes = probes_for(wanted.apis, wanted.key, wanted.image_url, wanted.free)
    costs = await costs_of(client, sum(probe.charged for them in probes.values() for probe in them))
    costs.require()
    if not wanted.as_json:
        say(str(costs))
    found: list[Finding] = []
    with nullcontext() if wanted.as_json else console.status("") as status:
        for api, calls in probes.items():
            if not wanted.as_json:
                say(f"\n[bold]{api}[/bold]")
            async with asyncio.timeout(wanted.timeout):
                async for finding in check_api(
                    client, api, calls, lambda text: status.update(escape(text)) if status else None
                ):
                    found.append(finding)
                    _show(finding, wanted.as_json)
    spent = costs.balance - (await costs_of(client, 0)).balance
    _sum_up(found, f"{spent:,} credits charged", wanted)
    return not any(finding.failed for finding in found)


async def _run_own(client: "Client", wanted: Wanted, call: "Call") -> bool:
    from cutout.app.compat_check.check import costs_of, try_own

    costs = await costs_of(client, 1)
    costs.require()
    if not wanted.as_json:
        say(f"{costs}\n\n[bold]{call.api}[/bold], {call.body}")
    async with asyncio.timeout(wanted.timeout):
        outcome: Outcome = await try_own(client, call)
    for finding in outcome.findings:
        _show(finding, wanted.as_json)
    told = f"no result; {outcome.refusal}" if outcome.result is None else outcome.result
    _sum_up(outcome.findings, told, wanted)
    return outcome.result is not None and not any(finding.failed for finding in outcome.findings)


def _show(finding: "Finding", as_json: bool) -> None:
    row = finding.row
    if as_json:
        line = {"api": row.api, "name": row.name, "outcome": finding.verdict, "expected": row.expected}
        typer.echo(json.dumps({**line, "ok": not finding.failed, "detail": finding.detail or row.note}))
        return
    detail = escape((finding.detail or row.note).replace("`", ""))
    mark = FAILED if finding.failed else MARKS[finding.verdict]
    say(f"{mark} {escape(row.shown):<24} {finding.verdict:<11}{detail}".rstrip())


def _sum_up(found: "Iterable[Finding]", last: str, wanted: Wanted) -> None:
    findings = list(found)
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    failed = [finding.row.name for finding in findings if finding.failed]
    if wanted.as_json:
        line = {"ok": not failed, **{str(name): count for name, count in counts.items()}, "detail": last}
        typer.echo(json.dumps(line))
        return
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    works, fails = (
        ("The call works:", "Not as it is:") if wanted.own else ("As documented:", "Not as documented:")
    )
    head = f"[red]{fails}[/red]" if failed else f"[green]{works}[/green]"
    say(f"\n{head} {told or 'nothing was tried'}; {escape(last)}.")
