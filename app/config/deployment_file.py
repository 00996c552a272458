"""The text of a new `cutout.env`: a deployment's choices and fresh secrets, and all other settings as comments."""

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic.fields import FieldInfo

from cutout.app.config.base import environment_name
from cutout.app.config.env_file import line_of, settings_in
from cutout.app.config.settings import GROUPS, Settings, load

HEAD = """\
# The settings of a Cutout deployment. This file has secrets: keep it readable by the service's user only.
# Docker (--env-file), systemd (EnvironmentFile=) and sh (set -a; . ./cutout.env) read it alike: NAME=value, no quotes.
# A line that begins with # is a comment; the default holds then. All settings are described in docs/settings.md.
"""
REST = """
# --- Everything else, with its default: docs/settings.md
"""
# The choices of every deployment, each with the line of comment above it.
CHOICES: Mapping[str, Mapping[str, str]] = {
    "Where people reach it": {
        "CUTOUT_PUBLIC_URL": "the address that browsers show, for links in mail, webhooks and results",
        "CUTOUT_HOST": "the address to listen on; a proxy in front takes the HTTPS off",
        "CUTOUT_PORT": "the port to listen on",
        "CUTOUT_TRUSTED_PROXIES": "the proxy in front, whose X-Forwarded-For is believed",
    },
    "Accounts and payments": {
        "CUTOUT_AUTH": "everyone needs an account; off is for one person on one machine",
        "CUTOUT_PAYMENTS": "who confirms payments: manual (an admin) or signed (your platform)",
        "CUTOUT_JWT_SECRET": "the secret of a platform in front that signs its users' tokens, if there is one",
    },
    "Secrets, made at random for this file; docs/secrets.md says how to change each": {
        "CUTOUT_SECRET": "signs logins and the addresses of results; the same on all hosts",
        "CUTOUT_METRICS_TOKEN": "lets Prometheus read /metrics from another host",
        "CUTOUT_PAYMENTS_SECRET": "what your platform signs payments with; needed by CUTOUT_PAYMENTS=signed",
        "POSTGRES_PASSWORD": "the password in DATABASE_URL, for the database server's own set-up",
    },
    "Database, queue and workers": {
        "DATABASE_URL": "the database; without it, SQLite in CUTOUT_DATA_DIR, for one host",
        "REDIS_URL": "the queue of all hosts; without it, the service runs one of its own",
        "CUTOUT_API_ENGINE": "what makes single photos: queue (the workers) or local (the service itself)",
        "CUTOUT_WORKERS": "workers that the service starts itself; auto: one for each GPU",
    },
    "Results": {
        "CUTOUT_DATA_DIR": "the folder of results, and of the embedded database and queue",
        "CUTOUT_RESULT_DAYS": "days that results are kept",
        "S3_BUCKET": "a bucket for results instead of that folder",
        "S3_ENDPOINT": "the server of the bucket, unless it is Amazon's",
        "S3_REGION": "the region of the bucket",
        "S3_ACCESS_KEY_ID": "the key of the bucket, unless the host has a role for it",
        "S3_SECRET_ACCESS_KEY": "the secret of that key",
    },
    "Networks": {
        "CUTOUT_DEVICE": "where networks run: cuda, cpu or huggingface; auto: a GPU if there is one",
        "CUTOUT_MODELS_DIR": "the folder of the weights",
        "CUTOUT_ACCEPT_LICENCES": "checkpoints whose licence you accept, such as rmbg-1.4,rmbg-2.0: docs/models.md",
        "HF_TOKEN": "the token that may download the gated weights of rmbg-2.0",
    },
    "Mail": {
        "CUTOUT_SMTP_URL": "the server that sends mail about batches, such as smtps://user:password@host:465",
        "CUTOUT_MAIL_FROM": "the sender of mail",
    },
}
# Variables that are no settings of the service, but belong to a deployment.
OTHERS = ("POSTGRES_PASSWORD", "HF_TOKEN")


@dataclass(frozen=True)
class Deployment:
    """A deployment's choices: values of settings by their field, None where nothing was chosen.

    `usual` holds if neither the choices nor the environment set a value. `others` are variables that are no settings.
    """

    chosen: Mapping[str, object]
    usual: Mapping[str, object]
    others: Mapping[str, str] = field(default_factory=dict)


def new_secret() -> str:
    """Return a random secret of 64 URL-safe characters."""
    return secrets.token_urlsafe(48)


def env_file_text(deployment: Deployment) -> str:
    """Return the file for a deployment: its choices, and what the environment sets already.

    Raises:
        SettingsError: a value is malformed or unsafe, or cannot be written so that all readers take it alike.

    """
    known = {environment_name(Settings, name) for name in Settings.model_fields}
    there = {name: value for name, value in settings_in(os.environ).items() if name in {*known, *OTHERS}}
    usual = {
        name: value
        for name, value in deployment.usual.items()
        if value is not None and environment_name(Settings, name) not in there
    }
    own = usual | {name: value for name, value in deployment.chosen.items() if value is not None}
    load(**own)
    values = there | {environment_name(Settings, name): str(value) for name, value in own.items()}
    return "".join(_lines({**values, **deployment.others}))


def _lines(values: Mapping[str, str]) -> Iterator[str]:
    yield HEAD
    defaults = {
        group: {
            environment_name(group, name): _default(group.model_fields[name])
            for name in group.__annotations__
            if name in group.model_fields
        }
        for group in GROUPS
    }
    all_defaults = {name: default for names in defaults.values() for name, default in names.items()}
    for title, choices in CHOICES.items():
        yield f"\n# --- {title}\n"
        for name, comment in choices.items():
            yield f"# {comment}\n"
            yield _line(name, values, all_defaults.get(name, ""))
    yield REST
    named = {name for choices in CHOICES.values() for name in choices}
    for group, names in defaults.items():
        rest = {name: default for name, default in names.items() if name not in named}
        if rest:
            yield f"# {group.title}\n"
        for name, default in rest.items():
            yield _line(name, values, default)


def _line(name: str, values: Mapping[str, str], default: str) -> str:
    return f"{line_of(name, values[name])}\n" if name in values else f"#{name}={default}\n"


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None or info.default in (None, ()):
        return ""
    return str(int(info.default)) if isinstance(info.default, bool) else str(info.default)
