"""`cutout init`: write the settings of a new deployment, with fresh secrets."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cutout.app.cli.console import CommandError, escape, say
from cutout.app.config import env_file
from cutout.app.config.deployment_file import Deployment, env_file_text, new_secret
from cutout.app.core.atomic_write import PRIVATE_FILE

# The proxy in front of a service on a host, and the networks that Docker gives to containers.
ON_THIS_HOST, IN_A_CONTAINER = "127.0.0.1,::1", "127.0.0.1,::1,172.16.0.0/12"


class DatabaseKind(StrEnum):
    """Databases that a new deployment can have."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Payments(StrEnum):
    """Ways in which payments are confirmed in a deployment with accounts."""

    MANUAL = "manual"
    SIGNED = "signed"


def init(
    public_url: Annotated[
        str,
        typer.Option(help="The address where users reach the service, such as https://cutout.example.com."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("cutout.env"),
    database: Annotated[
        DatabaseKind, typer.Option(help="sqlite: a file, for one host; postgresql: a server, for any number.")
    ] = DatabaseKind.SQLITE,
    database_host: Annotated[
        str, typer.Option(help="Host and port of the PostgreSQL; user and database are named cutout.")
    ] = "127.0.0.1:5432",
    redis: Annotated[
        str | None,
        typer.Option(
            help="redis://… of a Redis or Valkey for workers of their own; default: an embedded one."
        ),
    ] = None,
    s3_bucket: Annotated[
        str | None, typer.Option(help="A bucket for results; default: files in the data folder.")
    ] = None,
    s3_endpoint: Annotated[
        str | None, typer.Option(help="https://… of the bucket's server; default: Amazon's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cuda, cpu or huggingface.")] = "auto",
    accept_licences: Annotated[
        str | None, typer.Option(help="Checkpoints whose licence you accept, such as rmbg-1.4,rmbg-2.0.")
    ] = None,
    payments: Annotated[
        Payments, typer.Option(help="Who confirms payments: manual: an admin; signed: your platform.")
    ] = Payments.MANUAL,
    data_dir: Annotated[Path | None, typer.Option(help="The data folder; default: /var/lib/cutout.")] = None,
    models_dir: Annotated[
        Path | None, typer.Option(help="The folder of weights; default: /var/cache/cutout.")
    ] = None,
    container: Annotated[
        bool, typer.Option("--container", help="For the image: listen on all addresses, /data and /models.")
    ] = False,
) -> None:
    """Write cutout.env: the settings of a deployment with accounts, with fresh secrets.

    Settings that are set in the environment, such as S3_SECRET_ACCESS_KEY, are written too. A file that exists is left as
    it is.
    """
    password = new_secret() if database is DatabaseKind.POSTGRESQL else None
    settings = {
        "public_url": public_url,
        "host": "0.0.0.0" if container else None,
        "trusted_proxies": IN_A_CONTAINER if container else ON_THIS_HOST,
        "auth": "on",
        "secret": new_secret(),
        "metrics_token": new_secret(),
        "payments": payments.value,
        "payments_secret": new_secret() if payments is Payments.SIGNED else None,
        "database_url": f"postgresql://cutout:{password}@{database_host}/cutout" if password else None,
        "redis_url": redis,
        # Workers of their own make all photos, so that the models are not loaded by the service too.
        "api_engine": "queue" if redis else None,
        "data_dir": data_dir or ("/data" if container else "/var/lib/cutout"),
        "models_dir": models_dir or ("/models" if container else "/var/cache/cutout"),
        "s3_bucket": s3_bucket,
        "s3_endpoint": s3_endpoint,
        "device": device,
        "accept_licences": accept_licences,
    }
    text = env_file_text(Deployment(settings, {"POSTGRES_PASSWORD": password} if password else {}))
    _write_new(output, text)
    say(
        f"Written: {escape(str(output))}, with fresh secrets, readable by you only. Keep a copy in a safe place."
    )
    then = "migrate" if password else "doctor"
    say(f"Commands read it with: cutout --env-file {escape(str(output))} {then}")


def _write_new(output: Path, text: str) -> None:
    """Write a private file, all or nothing; never over another."""
    try:
        opened = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
    except FileExistsError:
        raise CommandError(
            f"{output} exists and was left as it is, because a deployment may use its secrets. Edit it to change a"
            " setting, or name another file with --output."
        ) from None
    except OSError as error:
        raise CommandError(f"{output} cannot be written ({error.strerror}).") from error
    try:
        with os.fdopen(opened, "w") as file:
            file.write(text)
    except OSError as error:
        output.unlink(missing_ok=True)
        raise CommandError(f"{output} cannot be written ({error.strerror}).") from error


def use_env_file(file: Path | None) -> None:
    """Set the variables of the root option `--env-file`; warn if every user of this host can read its secrets."""
    if file is None:
        return
    env_file.apply(file)
    if env_file.is_public(file):
        say(
            f"[yellow]note:[/yellow] every user of this host can read {escape(str(file))}; run: chmod o= {file}"
        )
