"""`cutout init`: write the settings of a new deployment, with fresh secrets."""

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer

from cutout.app.cli.console import CommandError, escape, say
from cutout.app.config import env_file
from cutout.app.config.deployment_file import Deployment, env_file_text, new_secret
from cutout.app.core.atomic_write import PRIVATE_FILE

# The proxy that takes the HTTPS off runs on the service's own host.
ON_THIS_HOST = "127.0.0.1,::1"


class DatabaseKind(StrEnum):
    """Databases that a new deployment can have."""

    SQLITE = "sqlite"
    POSTGRESQL = "postgresql"


class Payments(StrEnum):
    """Ways in which payments are confirmed in a deployment with accounts."""

    MANUAL = "manual"
    SIGNED = "signed"


PublicUrl = Annotated[
    str, typer.Option(help="The address where users reach the service, such as https://cutout.example.com.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="The file to write; - for stdout.")]
DatabaseOption = Annotated[
    DatabaseKind, typer.Option(help="sqlite: a file, for one host; postgresql: a server, for any number.")
]
DatabaseHost = Annotated[
    str, typer.Option(help="Host and port of the PostgreSQL; user and database are named cutout.")
]
Redis = Annotated[
    str | None,
    typer.Option(help="redis://… of a Redis or Valkey for workers of their own; default: an embedded one."),
]
Bucket = Annotated[str | None, typer.Option(help="A bucket for results; default: files in the data folder.")]
Endpoint = Annotated[str | None, typer.Option(help="https://… of the bucket's server; default: Amazon's.")]
Device = Annotated[str | None, typer.Option(help="auto (default), cuda, cpu or huggingface.")]
Licences = Annotated[
    str | None, typer.Option(help="Checkpoints whose licence you accept, such as rmbg-1.4,rmbg-2.0.")
]
PaymentsOption = Annotated[
    Payments, typer.Option(help="Who confirms payments: manual: an admin; signed: your platform.")
]
DataFolder = Annotated[Path | None, typer.Option(help="The data folder; default: /var/lib/cutout.")]
ModelsFolder = Annotated[Path | None, typer.Option(help="The folder of weights; default: /var/cache/cutout.")]


def init(
    public_url: PublicUrl,
    output: Output = Path("cutout.env"),
    database: DatabaseOption = DatabaseKind.SQLITE,
    database_host: DatabaseHost = "127.0.0.1:5432",
    redis: Redis = None,
    s3_bucket: Bucket = None,
    s3_endpoint: Endpoint = None,
    device: Device = None,
    accept_licences: Licences = None,
    payments: PaymentsOption = Payments.MANUAL,
    data_dir: DataFolder = None,
    models_dir: ModelsFolder = None,
) -> None:
    """Write cutout.env: the settings of a deployment with accounts, with fresh secrets.

    Settings that the environment has, such as S3_SECRET_ACCESS_KEY, or CUTOUT_DATA_DIR in a container, are written too. A
    file that exists is left as it is.
    """
    has_server = database is DatabaseKind.POSTGRESQL
    chosen = {
        "public_url": public_url,
        "auth": "on",
        "payments": payments.value,
        "redis_url": redis,
        "data_dir": data_dir,
        "models_dir": models_dir,
        "s3_bucket": s3_bucket,
        "s3_endpoint": s3_endpoint,
        "device": device,
        "accept_licences": accept_licences,
    }
    text = _text_of(chosen, database_host if has_server else None)
    if str(output) == "-":
        typer.echo(text, nl=False)
        return
    _write_new(output, text)
    say(
        f"Written: {escape(str(output))}, with fresh secrets, readable by you only. Keep a copy in a safe place."
    )
    then = "migrate" if has_server else "doctor"
    say(f"Commands read it with: cutout --env-file {escape(str(output))} {then}")


def _text_of(chosen: Mapping[str, object], database_host: str | None) -> str:
    """Return the file for these choices, with a password for the PostgreSQL at `database_host` if there is one."""
    others = {}
    if database_host is not None:
        password = os.environ.get("POSTGRES_PASSWORD") or new_secret()
        if set("/?#@") & set(database_host):
            raise CommandError(f"--database-host {database_host}: write host:port, such as db.example:5432.")
        url = f"postgresql://cutout:{quote(password, safe='')}@{database_host}/cutout"
        chosen = {**chosen, "database_url": url}
        others["POSTGRES_PASSWORD"] = password
    usual = {
        "trusted_proxies": ON_THIS_HOST,
        "secret": new_secret(),
        "metrics_token": new_secret(),
        "payments_secret": new_secret() if chosen["payments"] == Payments.SIGNED else None,
        # Workers of their own make all photos, so that the models are not loaded by the service too.
        "api_engine": "queue" if chosen["redis_url"] else None,
        "data_dir": "/var/lib/cutout",
        "models_dir": "/var/cache/cutout",
        "device": "auto",
    }
    return env_file_text(Deployment(chosen, usual, others))


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
