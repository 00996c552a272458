"""`cutout migrate | users | keys | credits`, and what other commands need not wait for."""

import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from app.cli import main
from app.db import schema
from app.db.session import Database
from app.services import accounts

OWNER = "owner@shop.example"


@pytest.fixture(autouse=True)
def _own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))


def cutout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run a command; its exit code, and what it wrote to stdout and stderr."""
    monkeypatch.setattr("sys.argv", ["cutout", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_from_an_account_to_a_key_and_credits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        return cutout(monkeypatch, capsys, *arguments)

    assert run("users", "add", OWNER, "--admin", "--password", "correct horse")[0] == 0
    assert "admin" in run("users", "list")[1]
    code, out, _ = run("keys", "add", OWNER, "--name", "laptop")
    key = out.strip()
    assert (code, out) == (0, f"{key}\n")
    assert run("credits", "grant", OWNER, "50", "--key", "invoice-1")[2].startswith("Granted; ")
    assert "Granted before" in run("credits", "grant", OWNER, "50", "--key", "invoice-1")[2]
    _, listed, said = run("credits", "show", OWNER)
    assert "has 50 credits" in said
    assert "invoice-1" in listed

    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    assert accounts.log_in(database, OWNER, "correct horse") is not None
    with database.begin() as session:
        user = accounts.by_key(session, key)
        (row,) = accounts.keys(session, user)
    assert str(user.id) in run("users", "list")[1]
    assert str(row.id) in run("keys", "list", OWNER)[1]
    assert key not in run("keys", "list", OWNER)[1]
    assert run("keys", "revoke", str(row.id))[0] == 0
    assert "revoked" in run("keys", "list", OWNER)[1]
    database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["keys", "add", "nobody@shop.example"], "kept here with: cutout users add nobody@shop.example"),
        (["users", "add", OWNER, "--password", "short"], "too short"),
        (["users", "add", "owner", "--password", "long enough"], "no e-mail address"),
        (["keys", "revoke", "00000000-0000-0000-0000-000000000000"], "There is no key"),
    ],
)
def test_what_cannot_be_done_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    code, _, err = cutout(monkeypatch, capsys, *arguments)
    assert code == 1
    assert says in err


def test_migrating(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A database of its own is brought up by itself; a shared one only by the command."""
    server = Database(postgresql_url)
    with server.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("DROP DATABASE IF EXISTS migrating"))
        connection.execute(text("CREATE DATABASE migrating"))
    url = server.engine.url.set(database="migrating").render_as_string(hide_password=False)
    server.close()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("CUTOUT_SECRET", "x" * 32)
    code, _, err = cutout(monkeypatch, capsys, "users", "list")
    assert code == 1
    assert "Run: cutout migrate" in err
    code, _, err = cutout(monkeypatch, capsys, "serve", "--device", "cpu")
    assert code == 1
    assert "Run: cutout migrate" in err
    assert f"revision {schema.head()}, from empty" in cutout(monkeypatch, capsys, "migrate")[2]
    assert f"revision {schema.head()} already" in cutout(monkeypatch, capsys, "migrate")[2]
    assert cutout(monkeypatch, capsys, "users", "list")[0] == 0


def test_a_database_that_does_not_answer_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/nothing")
    monkeypatch.setenv("CUTOUT_SECRET", "x" * 32)
    code, _, err = cutout(monkeypatch, capsys, "migrate")
    assert code == 1
    assert "does not answer" in err
    assert "Check DATABASE_URL" in err


def test_the_command_line_does_not_wait_for_what_it_does_not_need() -> None:
    script = (
        "import app.cli, sys; print(*{'torch', 'sqlalchemy', 'alembic', 'jwt', 'fastapi'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""
