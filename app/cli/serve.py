"""`cutout serve`: run the service on this machine."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from cutout.app.cli.accounts import opened
from cutout.app.cli.console import console, escape, loading, say
from cutout.app.cli.models import pull_one
from cutout.app.config.settings import load as load_settings
from cutout.inference.tiers import Tier

if TYPE_CHECKING:
    from cutout.app.config.settings import Settings
    from cutout.inference.engine import Engine


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
    workers: Annotated[
        str | None,
        typer.Option(
            help="Number of worker processes for batches; auto: one per GPU; 0: none, and no embedded queue."
        ),
    ] = None,
) -> None:
    """Run the service. Weights with an open licence are downloaded at the first start."""
    from cutout.app.app import create_app
    from cutout.app.bootstrap import (
        api_engine_of,
        device_of,
        engine_from,
        prepare,
        pull_missing,
        storage_from,
    )
    from cutout.app.embedded.cards import visible_cards
    from cutout.app.embedded.supervisor import EmbeddedProcesses
    from cutout.app.http.uvicorn_server import allow_many_connections, leave, server_of

    settings = load_settings(host=host, port=port, device=device, workers=workers)
    settings = settings.model_copy(update={"api_engine": api_engine_of(settings)})
    with opened(settings) as database:
        prepare(settings, database, storage_from(settings))

    def loaded(_: "Settings") -> "Engine":
        assert engine is not None
        return engine

    cards = visible_cards() if settings.workers == "auto" and device_of(settings) == "cuda" else []
    embedded = EmbeddedProcesses(settings, cards=cards)
    service = create_app(settings, make_engine=loaded, embedded=embedded)
    makes_photos = settings.api_engine == "local"
    if makes_photos or settings.workers_here > 0:
        pull_missing(settings, Tier, lambda checkpoint: pull_one(settings, checkpoint))
    engine = None
    if makes_photos:
        with loading():
            engine = engine_from(settings)
        show_tiers(engine)
    say(f"Open [bold]http://{settings.host}:{settings.port}/[/bold] for the web page, …/docs for the API.")
    allow_many_connections()
    server = server_of(service, settings, leave)
    if engine is not None:
        # A process whose GPU has failed cannot recover it, but a new one can; exit, so that the supervisor restarts it.
        engine.on_lost = lambda: setattr(server, "should_exit", True)
    server.run()
    lost = engine.lost if engine is not None else None
    if lost is not None:
        say(f"[red]{escape(str(lost))}[/red]")
    if lost is not None or not server.started:
        raise typer.Exit(1)


def show_tiers(engine: "Engine") -> None:
    """Print the model that serves each tier, and mark substitutes."""
    table = Table(box=None, pad_edge=False)
    for column in ("tier", "model", "backend", "recipe", ""):
        table.add_column(column, overflow="fold")
    for tier, serving in engine.serving.items():
        choice = serving.choice
        note = f"[yellow]substitute for {choice.wanted}[/yellow]" if choice.substitute else ""
        table.add_row(tier.value, choice.checkpoint.name, serving.runner.backend, choice.recipe.value, note)
    console.print(table)
    for reason in dict.fromkeys(reason for s in engine.serving.values() for reason in s.choice.passed_over):
        say(f"[yellow]note:[/yellow] {escape(reason)}")
