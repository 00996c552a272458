"""`cutout remove --hints`: hints for single photos by their names, and what is done again when they change."""

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from cutout.app.cli import remove as command
from tests.app.cli.test_options import Bench, cutout
from tests.fakes import open_picture, photo_bytes

__all__ = ["cutout"]

# The left and the right half of the disc that the fake network finds in the middle.
LEFT, RIGHT = {"box": "0% 0% 50% 100%"}, {"box": "50% 0% 100% 100%"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for name in ("a.png", "cups/a.png", "cups/b.png", "c.png"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(photo_bytes(seed=len(name)))
    return folder


@pytest.fixture
def hints(tmp_path: Path) -> Path:
    return tmp_path / "hints.json"


def sides(out: Path) -> dict[str, str]:
    """Tell which half of each result shows something."""
    found = {}
    for file in sorted(out.rglob("*.png")):
        alpha = np.asarray(open_picture(file.read_bytes()).getchannel("A"))
        half = alpha.shape[1] // 2
        left, right = alpha[:, :half].max() > 128, alpha[:, half:].max() > 128
        found[file.relative_to(out).as_posix()] = "left " * bool(left) + "right" * bool(right)
    return found


def test_each_photo_has_its_own_hints_and_is_made_again_when_they_change(
    cutout: Bench, photos: Path, hints: Path, tmp_path: Path
) -> None:
    run = ("remove", photos, "-o", tmp_path / "out", "--hints", hints)
    hints.write_text(json.dumps({"a.png": LEFT, "cups/a.png": RIGHT, "b.png": LEFT}))
    assert "4 of 4 done" in cutout(*run)
    made = {"a.png": "left ", "cups/a.png": "right", "cups/b.png": "left ", "c.png": "left right"}
    assert sides(tmp_path / "out") == made
    assert "4 already done" in cutout(*run)
    # The same hints under another of its names are the same options.
    hints.write_text(json.dumps({"cups/b.png": LEFT, "cups/a.png": RIGHT, "a.png": RIGHT}))
    said = cutout(*run)
    for told in ("1 were made with other options", "1 of 1 done", "3 already done"):
        assert told in said
    assert sides(tmp_path / "out") == made | {"a.png": "right"}
    # Photos without own hints have those of the options; an empty entry has none.
    hints.write_text(json.dumps({"cups/b.png": {}, "cups/a.png": RIGHT, "a.png": RIGHT}))
    said = cutout(*run, "--box", LEFT["box"])
    assert "2 of 2 done" in said
    assert sides(tmp_path / "out") == {
        "a.png": "right",
        "cups/a.png": "right",
        "cups/b.png": "left right",
        "c.png": "left ",
    }


def test_a_photo_to_a_file_and_a_hint_that_does_not_fit(
    cutout: Bench, photos: Path, hints: Path, tmp_path: Path
) -> None:
    hints.write_text(json.dumps({"a.png": LEFT}))
    cutout("remove", photos / "a.png", "-o", tmp_path / "out" / "x.png", "--hints", hints)
    assert sides(tmp_path / "out") == {"x.png": "left "}
    hints.write_text(json.dumps({"c.png": {"keep": [[4000, 3]]}}))
    said = cutout("remove", photos, "-o", tmp_path / "out", "--hints", hints)
    assert (cutout.code, "3 of 4 done" in said, said.count("failed: ")) == (1, True, 1)
    assert "c.png: The point 4000px 3px is beyond the photo" in said


def test_what_cannot_be_meant_is_refused_before_any_work(
    cutout: Bench, photos: Path, hints: Path, tmp_path: Path
) -> None:
    for text, says in (
        ('{"a.png": {}, "a.png": {}}', f"--hints: {hints}: 'a.png' stands there twice."),
        ('{"a.png": {"box": "1 2"}}', f"--hints: {hints}: 'a.png': box: '1 2' is not a box."),
        ("[" * 100_000, "too many brackets"),
        ('{"b.pgn": {}}', "--hints: 'b.pgn' fits no photo. Did you mean 'cups/b.png'"),
        ('{"cups/b.png": {}, "b.png": {}}', "--hints: 'cups/b.png' and 'b.png' are the same photo."),
    ):
        hints.write_text(text)
        assert says in cutout("remove", photos, "-o", tmp_path / "out", "--hints", hints)
        assert cutout.code == 1
    (photos / "pots").mkdir()
    (photos / "pots" / "b.png").write_bytes(photo_bytes())
    hints.write_text('{"b.png": {}}')
    said = cutout("remove", photos, "-o", tmp_path / "out", "--hints", hints)
    assert "'b.png' is the name of photos in 2 folders" in said
    missing = cutout("remove", photos, "-o", tmp_path / "out", "--hints", tmp_path / "none.json")
    assert "none.json cannot be read (No such file or directory)" in missing
    assert "- has none" in cutout("remove", "-", "-o", "-", "--hints", hints)
    assert not (tmp_path / "out").exists()
    assert cutout.opened == 0


def test_a_photo_that_arrives_while_watching_gets_its_hints(
    cutout: Bench, photos: Path, hints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints.write_text(json.dumps({"later.png": RIGHT}))
    polls = threading.Semaphore(4)

    def arrive(_: float) -> None:
        if not (photos / "later.png").exists():
            (photos / "later.png").write_bytes(photo_bytes())
        if not polls.acquire(blocking=False):
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", arrive)  # type: ignore[attr-defined]
    said = cutout("remove", photos, "-o", tmp_path / "out", "--hints", hints, "--watch")
    assert "note: --hints: 'later.png' fits no photo." in said
    assert (cutout.code, sides(tmp_path / "out")["later.png"]) == (130, "right")
