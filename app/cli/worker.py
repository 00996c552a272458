"""`cutout worker`: run a queue worker on this machine."""

import os
import sys
from typing import Annotated

import typer

from cutout.app.cli.accounts import opened
from cutout.app.cli.console import CommandError
from cutout.app.cli.models import pull_one
from cutout.app.config.settings import load as load_settings
from cutout.inference.tiers import Tier


def worker(
    device: Annotated[str | None, typer.Option(help="auto, cuda, cpu or huggingface.")] = None,
    queues: Annotated[
        str, typer.Option(help="Queues to process, comma-separated: interactive, batch.")
    ] = "interactive,batch",
) -> None:
    """Process photos from the queue of REDIS_URL until SIGTERM.

    Weights with an open licence are downloaded at the first start.
    """
    from cutout.app.bootstrap import prepare, pull_missing, storage_from
    from cutout.app.jobs.leases import Line

    settings = load_settings(device=device)
    names = [name.strip() for name in queues.split(",")]
    for name in names:
        if name not in list(Line):
            raise CommandError(f"There is no queue {name!r}. Choose one of: {', '.join(Line)}.")
    if settings.redis_url is None:
        raise CommandError(
            "A worker needs the queue of its service: set REDIS_URL to the same value as for the service. Without"
            " REDIS_URL, `cutout serve` starts a queue and a worker itself."
        )
    # The worker itself waits if the queue does not answer.
    with opened(settings) as database:
        prepare(settings, database, storage_from(settings))
    pull_missing(settings, Tier, lambda checkpoint: pull_one(settings, checkpoint))
    # Replace this process, so that the worker does not carry the command line's imports; exec keeps the process id,
    # which a supervisor relies on.
    command = [
        sys.executable,
        "-P",
        "-m",
        "cutout.worker",
        "--device",
        settings.device,
        "--queues",
        ",".join(names),
    ]
    os.execv(command[0], command)  # nosec B606 # this interpreter
