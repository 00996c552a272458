"""Checks of URLs in settings. They may contain passwords, so error messages never repeat any part of them."""

import re
from urllib.parse import urlsplit

from pydantic import HttpUrl, TypeAdapter, ValidationError

HOST = re.compile(r"[A-Za-z0-9.,_-]*|\[?[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]?")
# SQLAlchemy's names for the supported databases; many hosting providers write `postgres`.
POSTGRESQL = ("postgresql", "postgres", "postgresql+psycopg")
DATABASES = (*POSTGRESQL, "sqlite", "sqlite+pysqlite")
# Only these names are repeated in messages: the scheme of a malformed URL may be part of a password.
OTHER_DATABASES = ("mysql", "mariadb", "oracle", "mssql", "mongodb", "cockroachdb", "clickhouse")
ESCAPED = "In the user and password, write @ as %40, / as %2F, : as %3A, ? as %3F and # as %23"


def check_database(url: str) -> None:
    """Return if this is the URL of a supported database.

    Raises:
        ValueError: it is not; the message does not repeat the URL.

    """
    from sqlalchemy import make_url  # takes half a second, which most commands need not spend
    from sqlalchemy.exc import ArgumentError

    form = "write postgresql://user:password@host:5432/name, or leave it unset for SQLite in CUTOUT_DATA_DIR"
    scheme = url.partition("://")[0].lower()
    if scheme not in DATABASES:
        kind = scheme.partition("+")[0]
        if kind in POSTGRESQL:
            raise ValueError(f"PostgreSQL is supported with the psycopg driver only; {form}")
        named = f"{kind} is not supported" if kind in OTHER_DATABASES else "this is not the URL of a database"
        raise ValueError(f"{named}: PostgreSQL and SQLite are supported; {form}")
    try:
        parsed = make_url(url)
        # Reject invalid host names, which would appear in the error message of a failed look-up.
        has_nobody = parsed.host is None and parsed.username is None and parsed.password is None
        whole = bool(HOST.fullmatch(parsed.host or "")) if scheme in POSTGRESQL else has_nobody
    except (ArgumentError, ValueError):
        whole = False
    if not whole:
        raise ValueError(f"this is not the URL of a database; {form}. {ESCAPED}")


def check_redis(url: str) -> None:
    """Return if this is the URL of a Redis or Valkey server.

    Raises:
        ValueError: it is not; the message does not repeat the URL.

    """
    form = "the URL must begin with redis://, rediss:// or unix://, as in redis://:password@host:6379/0"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError
        if parts.scheme != "unix":
            _ = parts.port
            whole = HOST.fullmatch(parts.hostname or "") and re.fullmatch("/?[0-9]*", parts.path)
            if not whole or parts.fragment or "@" in parts.query:
                raise ValueError
        from redis.connection import parse_url

        parse_url(url)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError):
        raise ValueError(f"this is not the URL of a Redis or Valkey server; {form}. {ESCAPED}") from None


def read_web_address(value: str, *, what_instead: str = "use the setting for it") -> HttpUrl:
    """Parse an HTTP(S) URL that must not contain a user or password.

    Raises:
        ValueError: it is not an HTTP(S) URL, or contains one of them; the message does not repeat the URL.

    """
    try:
        url = TypeAdapter(HttpUrl).validate_python(value)
    except ValidationError:
        raise ValueError(
            "this is not a web address; write https://host, with a port and a path if needed"
        ) from None
    if url.username is not None or url.password is not None:
        raise ValueError(f"the URL must contain no user or password; {what_instead}")
    return url


def check_origin(origin: str) -> None:
    """Return if this is an origin exactly as browsers send it: scheme, host, and port if it is not the default.

    Raises:
        ValueError: it is not.

    """
    form = "write each origin as browsers send it, as in https://shop.example or http://localhost:5173"
    if "*" in origin or origin == "null":
        raise ValueError(f"{form}; wildcards and null are not allowed")
    url = read_web_address(origin, what_instead=form)
    port = "" if url.port in (None, 80 if url.scheme == "http" else 443) else f":{url.port}"
    if origin != f"{url.scheme}://{url.host}{port}":
        raise ValueError(f"{form}, in lower case, without a path, and without the default port")
