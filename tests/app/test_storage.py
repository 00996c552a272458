"""Files of results: written whole, deleted in time, and nothing else with them."""

import os
import time
from datetime import timedelta
from pathlib import Path

from app.storage.local import LocalStorage


def test_old_results_are_deleted_and_nothing_else(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.put("results/old.png", b"old")
    storage.put("results/new.png", b"new")
    (tmp_path / "cutout.db").write_bytes(b"not a result")
    past = time.time() - timedelta(days=8).total_seconds()
    for name in ("results/old.png", "cutout.db"):
        os.utime(tmp_path / name, (past, past))
    assert storage.delete_older_than(timedelta(days=7), "results/") == 1
    assert storage.get("results/old.png") is None
    assert storage.get("results/new.png") == b"new"
    assert (tmp_path / "cutout.db").exists()
