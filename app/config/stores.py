"""The file of `CUTOUT_STORES`: which users may have their results stored in which buckets, and with which keys."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from cutout.app.config import url_checks
from cutout.app.config.base import SettingsError

SCHEME = "s3://"
BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# S3 allows 1024 bytes; this leaves room for the name of a picture.
LONGEST_KEY_BYTES = 700
NAME = "CUTOUT_STORES"


def read_s3_url(url: str) -> tuple[str, str]:
    """Return the bucket and the key, or the prefix, of `s3://bucket/key`. The URL is taken as it is, without decoding.

    Raises:
        ValueError: it is no such URL, or its key could be read as another one; the message says why.

    """
    bucket, separator, key = url.removeprefix(SCHEME).partition("/")
    if not url.startswith(SCHEME) or not separator or not BUCKET.fullmatch(bucket):
        raise ValueError("write s3://bucket/prefix/, with the name of a bucket in lower case")
    if len(key.encode("utf-8", "replace")) > LONGEST_KEY_BYTES:
        raise ValueError(f"the name in the bucket has more than {LONGEST_KEY_BYTES} bytes")
    segments = key.split("/")
    if any(segment in (".", "..") for segment in segments) or "" in segments[:-1]:
        raise ValueError("the name in the bucket must not have . or .. or nothing between two slashes")
    # A server behind another one may decode or cut a name that has these.
    if any(character in "%?#\\" or not character.isprintable() for character in key):
        raise ValueError("the name in the bucket must not have %, ?, #, a backslash or control characters")
    return bucket, key


class AssignedStore(BaseModel):
    """A prefix of a bucket, the users whose results may be stored there, and the credentials for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)

    url: str
    users: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
    access_key_id: Annotated[str, Field(min_length=1)] = Field(repr=False)
    secret_access_key: SecretStr
    endpoint: str | None = None
    region: Annotated[str, Field(pattern="^[a-z0-9-]+$")] = "us-east-1"

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        _, prefix = read_s3_url(value)
        if prefix and not prefix.endswith("/"):
            raise ValueError("end the prefix with /, as in s3://bucket/prefix/")
        if "{" in value or "}" in value:
            raise ValueError("a prefix must not have { or }")
        return value

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, value: str | None) -> str | None:
        if value is not None:
            url_checks.read_web_address(value, what_instead="give access_key_id and secret_access_key")
        return value

    @property
    def bucket(self) -> str:
        return read_s3_url(self.url)[0]

    @property
    def prefix(self) -> str:
        """The beginning of all names in the bucket that are allowed: empty, or ends with a slash."""
        return read_s3_url(self.url)[1]


def read_stores(
    path: Path, own_bucket: str | None = None, own_endpoint: str | None = None, own_key_id: str | None = None
) -> tuple[AssignedStore, ...]:
    """Read the file of stores. The `own_…` are the service's storage of results, which no user may be assigned.

    Raises:
        SettingsError: the file cannot be read or is malformed, or a store is the service's own or is named twice for
            a user. No message repeats a key.

    """
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise SettingsError(f"{NAME}: {path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # Its message names the place, never the text, in which a key may be.
        raise SettingsError(f"{NAME}: {path} is not TOML: {error}") from None
    entries = found.get("store")
    if set(found) != {"store"} or not isinstance(entries, list):
        raise SettingsError(f"{NAME}: {path} must contain [[store]] tables, and nothing else.")
    stores = tuple(_read_store(path, number, entry) for number, entry in enumerate(entries, 1))
    taken: set[tuple[str, str]] = set()
    for number, store in enumerate(stores, 1):
        where = f"{NAME}: {path}, store {number}"
        if store.bucket == own_bucket and _is_same_server(store.endpoint, own_endpoint):
            raise SettingsError(
                f"{where}: {store.bucket} is the service's own bucket (S3_BUCKET), in which results of all users are;"
                " use another bucket."
            )
        if store.access_key_id == own_key_id:
            raise SettingsError(
                f"{where}: access_key_id is the service's own (S3_ACCESS_KEY_ID), which can read results of all users;"
                " use a key for this store alone."
            )
        for user in store.users:
            if (store.url, user) in taken:
                raise SettingsError(f"{where}: {store.url} is assigned to {user} twice.")
            taken.add((store.url, user))
    return stores


def _read_store(path: Path, number: int, entry: Any) -> AssignedStore:
    try:
        return AssignedStore.model_validate(entry)
    except ValidationError as error:
        problems = []
        for problem in error.errors(include_url=False, include_input=False):
            field = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            problems.append(f"{NAME}: {path}, store {number}: {field}: {message}")
        raise SettingsError("\n".join(problems)) from None


def _is_same_server(one: str | None, other: str | None) -> bool:
    if one is None or other is None:
        return one is other
    found, known = urlsplit(one), urlsplit(other)
    return (found.hostname, found.port) == (known.hostname, known.port)
