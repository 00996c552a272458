"""One service for all tests of a module that change nothing in it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cutout.app.db.session import Database
from tests.app.compat.compat_client import CompatClient, opened_compat
from tests.web import PUBLIC, Web, open_web


@pytest.fixture(scope="module")
def compat(tmp_path_factory: pytest.TempPathFactory, migrated_file: Path) -> Iterator[CompatClient]:
    folder = tmp_path_factory.mktemp("compat")
    shutil.copy(migrated_file, folder / "cutout.db")
    database = Database(f"sqlite:///{folder / 'cutout.db'}")
    with opened_compat(database, folder, fetch_allow_networks=f"{PUBLIC}/32") as client:
        yield client
    database.close()


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    with open_web() as web:
        yield web
