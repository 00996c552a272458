"""A storage for the tests of workers."""

from pathlib import Path

import pytest

from cutout.app.storage.local import LocalStorage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "files")
