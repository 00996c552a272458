"""Databases, a queue and storages for the tests of workers."""

from pathlib import Path

import pytest

from cutout.app.storage.local import LocalStorage
from tests.app.databases import (
    _nothing_is_waited_for_in_a_transaction,
    database,
    postgresql,
    postgresql_url,
    redis_url,
)
from tests.app.s3_fixtures import s3, s3_server

__all__ = [
    "_nothing_is_waited_for_in_a_transaction",
    "database",
    "postgresql",
    "postgresql_url",
    "redis_url",
    "s3",
    "s3_server",
]


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")
