"""`cutout migrate | users | keys | credits`, and imports that the other commands avoid."""

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from cutout.app.auth import accounts
from cutout.app.auth.tokens import Claims
from cutout.app.cli import main
from cutout.app.db import migrate
from cutout.app.db.session import Database
from cutout.app.db.tables import Job, Status
from cutout.app.jobs import queries as jobs
from cutout.inference.imaging.encode import Format

pytestmark = pytest.mark.slow

OWNER = "owner@shop.example"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _own_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_DATA_DIR", str(tmp_path))


def cutout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str, str]:
    """Run a command; return its exit code, stdout and stderr."""
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
    assert "Already granted with this key" in run("credits", "grant", OWNER, "50", "--key", "invoice-1")[2]
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


def test_a_password_can_come_from_stdin_or_is_asked_for_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["users", "add", OWNER]
    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse battery\nmore\n"))
    code, _, said = cutout(monkeypatch, capsys, *add, "--password-stdin", "--password", "another horse")
    assert (code, "either --password or --password-stdin" in said) == (1, True)
    assert cutout(monkeypatch, capsys, *add, "--password-stdin")[0] == 0
    asked: list[dict[str, bool]] = []

    def prompt(_: str, **how: bool) -> str:
        asked.append(how)
        return "staple of horses"

    monkeypatch.setattr("typer.prompt", prompt)
    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    assert accounts.log_in(database, OWNER, "correct horse battery") is not None
    assert cutout(monkeypatch, capsys, "users", "password", OWNER)[0] == 0
    assert asked == [{"hide_input": True, "confirmation_prompt": True}]
    assert accounts.log_in(database, OWNER, "staple of horses") is not None
    database.close()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["keys", "add", "nobody@shop.example"],
            "create a local account, run: cutout users add nobody@shop.example",
        ),
        (["users", "add", OWNER, "--password", "short"], "too short"),
        (["users", "add", "owner", "--password", "long enough"], "not an e-mail address"),
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
    """An embedded database is migrated automatically; a shared one only by the command."""
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
    assert f"revision {migrate.head()}, from empty" in cutout(monkeypatch, capsys, "migrate")[2]
    assert f"revision {migrate.head()} already" in cutout(monkeypatch, capsys, "migrate")[2]
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
    script = "import cutout.app.cli, sys; print(*{'torch', 'sqlalchemy', 'alembic', 'jwt', 'fastapi'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == ""


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return lambda *arguments: cutout(monkeypatch, capsys, *arguments)


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'cutout.db'}")
    migrate.migrate(database)
    yield database
    database.close()


def test_lists_go_to_stdout_and_nothing_is_cut_off(run: Run, own_database: Database) -> None:
    long = f"{'a' * 150}@{'b' * 100}.example"
    with own_database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("s" * 200, long))
        _, key = accounts.create_key(session, user, "n" * 100)
    for arguments, whole in (
        (("users", "list"), [str(user.id), user.subject, long]),
        (("keys", "list", str(user.id)), [str(key.id), key.name]),
    ):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert len(lines) == 2
        assert all(one in lines[1].split() for one in whole)
        assert "…" not in lines[1].replace(f"{key.shown}…", "")


def test_a_user_is_disabled_enabled_and_given_a_new_password(run: Run, own_database: Database) -> None:
    run("users", "add", OWNER, "--password", "correct horse")
    assert run("users", "disable", OWNER)[0] == 0
    assert run("users", "list")[1].rstrip().endswith("disabled")
    with pytest.raises(accounts.AccountDisabled):
        accounts.log_in(own_database, OWNER, "correct horse")
    assert run("users", "enable", OWNER)[0] == 0
    assert "disabled" not in run("users", "list")[1]
    assert run("users", "password", OWNER, "--password", "battery staple")[0] == 0
    assert accounts.log_in(own_database, OWNER, "battery staple") is not None
    assert accounts.log_in(own_database, OWNER, "correct horse") is None


def test_a_user_is_deleted_where_it_is_meant(
    run: Run, own_database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with own_database.begin() as session:
        user = accounts.get_or_create_user(session, Claims("u-1", OWNER))
        job = Job(user_id=user.id, status=Status.COMPLETED, tier="basic", credits=3, format="png")
        session.add(job)
    picture = tmp_path / jobs.result_key(job.id, Format.PNG)
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"picture")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run("users", "delete", OWNER)[0] == 1
    assert picture.exists()
    code, _, err = run("users", "delete", OWNER, "--yes")
    assert code == 0
    assert "with 1 jobs and 0 batches" in err
    assert not picture.exists()
    listed = run("users", "list")[1]
    assert f"deleted:{user.id}" in listed
    assert OWNER not in listed
    code, _, err = run("users", "delete", OWNER, "--yes")
    assert code == 1
    assert "There is no user" in err


def test_a_platforms_user_gets_a_key_by_mail_and_several_are_listed(run: Run, own_database: Database) -> None:
    with own_database.begin() as session:
        one = accounts.get_or_create_user(session, Claims("u-1", "Anna@shop.example"))
    assert run("keys", "add", "anna@SHOP.example")[1].startswith("cutout_")
    with own_database.begin() as session:
        two = accounts.get_or_create_user(session, Claims("u-2", "anna@shop.example"))
    code, out, err = run("keys", "add", "anna@shop.example")
    assert (code, out) == (1, "")
    assert "2 users match" in err
    for user in (one, two):
        assert f"{user.id} ({user.subject})" in err
        assert run("keys", "add", str(user.id))[0] == 0
        assert run("keys", "add", user.subject)[0] == 0


def test_a_key_too_many_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUTOUT_MAX_API_KEYS", "1")
    run("users", "add", OWNER, "--password", "correct horse")
    assert run("keys", "add", OWNER)[0] == 0
    code, out, err = run("keys", "add", OWNER)
    assert (code, out) == (1, "")
    assert "CUTOUT_MAX_API_KEYS" in err
