"""`cutout worker`: what it prints before it starts the worker."""

import os
import sys
from pathlib import Path

import pytest

from cutout.app.db.session import Database
from cutout.inference.errors import WeightsUnavailable
from tests.app.cli.test_accounts import cutout


@pytest.fixture(autouse=True)
def _own_host(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("CUTOUT_AUTH", "off")
    monkeypatch.setenv("REDIS_URL", redis_url)
    monkeypatch.setattr("cutout.app.bootstrap.pull_missing", lambda *_: None)


class Became(Exception):
    """Raised where the process would be replaced by another program."""


def test_it_becomes_a_worker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    became: list[list[str]] = []

    def execv(path: str, arguments: list[str]) -> None:
        assert path == sys.executable
        became.append(arguments)
        raise Became

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr("sys.argv", ["cutout", "worker", "--device", "cpu", "--queues", " batch"])
    from cutout.app.cli import cli

    with pytest.raises(Became):
        cli(standalone_mode=False)
    assert became == [[sys.executable, "-P", "-m", "cutout.worker", "--device", "cpu", "--queues", "batch"]]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--queues", "batch,nights"], {}, "no queue 'nights'. Choose one of: interactive, batch"),
        (["--queues", ""], {}, "no queue ''"),
        ([], {"REDIS_URL": ""}, "set REDIS_URL"),
        ([], {"DATABASE_URL": "postgresql://127.0.0.1:1/none"}, "The database does not answer"),
        ([], {"CUTOUT_DATA_DIR": "/proc/nowhere"}, "/proc/nowhere"),
        (["--device", "tpu"], {}, "CUTOUT_DEVICE"),
    ],
)
def test_what_keeps_it_from_that_is_said(
    arguments: list[str],
    environment: dict[str, str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    code, out, err = cutout(monkeypatch, capsys, "worker", *arguments)
    assert (code, out) == (1, "")
    assert told in err
    assert err.startswith("error: ")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_database_of_another_shape_is_said_with_what_to_run(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setattr("cutout.app.db.migrate.head", lambda: "9999")
    code, _, err = cutout(monkeypatch, capsys, "worker")
    assert code == 1
    assert "needs 9999. Run: cutout migrate" in err


def test_weights_that_cannot_be_had_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise WeightsUnavailable("isnet-general: nobody has it")

    monkeypatch.setattr("cutout.app.bootstrap.pull_missing", fail)
    code, _, err = cutout(monkeypatch, capsys, "worker")
    assert code == 1
    assert "nobody has it" in err
