"""The command's output cannot control the terminal, whatever file names, messages or arguments contain."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cutout.app import bootstrap
from cutout.app.cli import main
from cutout.app.cli.console import console, escape, say
from cutout.app.core.printable import printable
from cutout.inference.errors import ModelUnavailable
from tests.fakes import fake_engine, photo_bytes

Run = Callable[..., int]
# Clear the screen; set the window title; reverse the text direction; start a new line; return to the line's start; a C1
# control sequence; a byte that is not UTF-8; rich's markup.
EVIL = "a\x1b[2J\x1b]0;owned\x07\u202egnp\nerror: forged\r\x9b31m\udcff[red]b[/red][/nothing]"
CONTROLS = "\x1b[2J", "\x1b]", "\x07", "\u202e", "\nerror: forged", "\r", "\x9b"


@pytest.fixture
def cutout(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["cutout", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    return run


def assert_shown(told: str) -> None:
    for control in CONTROLS:
        assert control not in told, repr(told)
    assert r"a\x1b[2J\x1b]0;owned\x07\u202egnp" in told.replace("\n", ""), repr(told)


def test_controls_are_written_out() -> None:
    assert printable("Größe ½ 写真 👩‍🚀 [x]") == "Größe ½ 写真 👩‍🚀 [x]"
    assert printable("\x00\t\n\x7f\x85\u2028\u2066\ud800") == r"\x00\t\n\x7f\x85\u2028\u2066\ud800"
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_names_of_files(
    cutout: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "engine_from", lambda *_: fake_engine())
    monkeypatch.setattr(bootstrap, "pull_missing", lambda *_: None)
    name = EVIL.replace("/", ":")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{name}.png").write_bytes(photo_bytes()[:100])
    (tmp_path / "in" / f"x.{name}").write_bytes(b"no photo")
    assert cutout("remove", str(tmp_path / "in"), "-o", str(tmp_path / "out")) == 1
    told = capfd.readouterr().err
    assert_shown(told)
    assert "failed:" in told
    assert "[red]b[:red]" in told
    assert cutout("remove", str(tmp_path / name), "-o", str(tmp_path / "out")) == 1
    told = capfd.readouterr().err
    assert_shown(told)
    assert told.count("error:") == 2, "its own, and the one that is no line"


@pytest.mark.parametrize(
    "arguments", [("remove", f"-{EVIL}"), (EVIL,), ("remove", "x", "-o", "y", "--tier", EVIL)]
)
def test_what_was_typed(cutout: Run, arguments: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert cutout(*arguments) == 2
    told = capfd.readouterr().err
    for control in CONTROLS:
        if "\n" not in control:
            assert control not in told, repr(told)


def test_others_words(
    cutout: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object, **__: object) -> None:
        logging.getLogger("cutout.app.bootstrap").warning("cannot be fetched: %s", EVIL)
        raise ModelUnavailable(EVIL)

    monkeypatch.setattr(bootstrap, "pull_missing", broken)
    # As in a user's terminal, where logging is not configured.
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert cutout("remove", "-", "-o", "-") == 1
    told = capfd.readouterr().err
    assert_shown(told)
    assert "cannot be fetched" in told
    assert "error:" in told


def test_what_nobody_has_escaped_controls_nothing_either(capfd: pytest.CaptureFixture[str]) -> None:
    say("\x1b[2Jtext \u202e\x9b")
    with console.status("\x1b[2Jstatus"):
        pass
    say(f"[bold]{escape('[bold]x')}[/bold]")
    told = capfd.readouterr().err
    assert "\x1b[2J" not in told
    assert "\u202e" not in told
    assert "[bold]x" in told
