"""`cutout mcp`, called by a client of the protocol's SDK in a real process. The network is fake, but of one tier."""

import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cutout.app.cli import main
from cutout.app.cli.mcp_files import Folders
from cutout.inference.weights.store import ModelsFolder
from tests.conftest import DATA
from tests.fakes import PATIENCE, open_picture, photo_bytes, wait_until

if TYPE_CHECKING:
    from tests.app.cli.mcp_client import Assistant

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def assistant(tmp_path_factory: pytest.TempPathFactory, small_weights: ModelsFolder) -> Iterator["Assistant"]:
    from tests.app.cli.mcp_client import connected

    with connected(tmp_path_factory.mktemp("mcp"), small_weights.path) as assistant:
        yield assistant


@pytest.fixture
def folder(assistant: "Assistant", request: pytest.FixtureRequest) -> Path:
    """Return a folder of the test's own that the server may use."""
    own = assistant.folder / str(request.node.name)[:40]
    own.mkdir()
    return own


def test_the_tools_say_what_they_do(assistant: "Assistant") -> None:
    tools = {tool.name: tool for tool in assistant.portal.call(assistant.client.list_tools).tools}
    assert sorted(tools) == ["check_setup", "list_presets", "make_listing_picture", "remove_background"]
    for name, tool in tools.items():
        assert tool.annotations is not None
        writes = name in ("make_listing_picture", "remove_background")
        assert tool.annotations.read_only_hint is not writes
        assert (tool.annotations.destructive_hint is True) is writes
        assert all("description" in one for one in tool.input_schema["properties"].values())
    setup = assistant.call("check_setup")
    assert setup["folders"] == [str(assistant.folder)]
    assert {one["tier"]: one["checkpoint"] for one in setup["tiers"]}["preview"] == "u2netp"
    presets = assistant.call("list_presets")["result"]
    assert {one["name"]: one["sets"]["canvas"] for one in presets}["amazon"] == "2000x2000"


def test_a_result_is_written_beside_its_photo_and_never_replaced_unasked(
    assistant: "Assistant", folder: Path
) -> None:
    photo = folder / "shoe.png"
    photo.write_bytes(photo_bytes(300, 200))
    before = photo.read_bytes()
    answer = assistant.call("remove_background", path=str(photo))
    assert (answer["made"], answer["failed"]) == (1, 0)
    (result,) = answer["results"]
    assert result["output"] == str(folder / "shoe-cutout.png")
    assert (result["width"], result["height"], result["needs_review"]) == (300, 200, [])
    box = result["subject"]
    assert box["left"] + box["width"] / 2 == pytest.approx(150, abs=2)
    assert box["top"] + box["height"] / 2 == pytest.approx(100, abs=2)
    assert 0 < result["coverage"] < 1
    made = Path(result["output"]).read_bytes()
    assert open_picture(made).mode == "RGBA"
    said = assistant.refused("remove_background", path=str(photo), background="white")
    assert "exists already" in said
    assert "overwrite=true" in said
    assert Path(result["output"]).read_bytes() == made
    assistant.call("remove_background", path=str(photo), background="white", overwrite=True)
    assert Path(result["output"]).read_bytes() != made
    assert photo.read_bytes() == before


def test_a_folder_is_done_photo_by_photo_with_progress(assistant: "Assistant", folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.png").write_bytes(photo_bytes(60, 40, seed=number))
    (folder / "bad.jpg").write_text("no picture")
    (folder / "list.txt").write_text("no picture")
    (folder / "strange.png").symlink_to(assistant.folder.parent / "secret.png")
    assistant.progress.clear()
    answer = assistant.call("make_listing_picture", path=str(folder), preset="amazon")
    out = folder / "cutouts"
    assert sorted(file.name for file in out.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    assert open_picture((out / "0.jpg").read_bytes()).size == (2000, 2000)
    assert (answer["made"], answer["failed"]) == (3, 2)
    errors = {Path(one["photo"]).name: one["error"] for one in answer["results"] if one["error"]}
    assert "not a picture" in errors["bad.jpg"]
    assert "outside of the folders" in errors["strange.png"]
    assert len(answer["passed_over"]) == 1
    assert "list.txt" in answer["passed_over"][0]
    done = [(done, total) for done, total, _ in assistant.progress if done]
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_several_photos_of_one_name_have_results_of_their_own(assistant: "Assistant", folder: Path) -> None:
    for name in ("a.png", "a.webp"):
        (folder / name).write_bytes(photo_bytes(file_format=name[2:].upper()))
    paths = [f"{folder.name}/{name}" for name in ("a.png", "a.webp")]  # below the server's folder
    answer = assistant.call("remove_background", path=paths)
    assert sorted(Path(one["output"]).name for one in answer["results"]) == [
        "a.png-cutout.png",
        "a.webp-cutout.png",
    ]
    answer = assistant.call("remove_background", path=paths[0], output=str(folder / "new/b.webp"))
    assert open_picture((folder / "new/b.webp").read_bytes()).format == "WEBP"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": "/etc/passwd"}, "outside of the folders"),
        ({"path": "../secret.png"}, "--folder"),
        ({"path": "link.png"}, "outside of the folders"),
        ({"path": "none.png"}, "Check its spelling"),
        ({"path": "a\0b"}, "is not a path"),
        ({"path": "x" * 5000}, "File name too long"),
        ({"path": "good.png", "output": "y" * 300}, "File name too long"),
        ({"path": "n" * 245 + ".png"}, "File name too long"),
        ({"path": " "}, "outside of the folders"),
        ({"path": []}, "No path was given"),
        ({"path": "empty"}, "No photos were found"),
        ({"path": "text.txt"}, "Send a JPEG"),
        ({"path": "pipe.png"}, "is not a file"),
        ({"path": "huge.png"}, "CUTOUT_MAX_UPLOAD_MB"),
        ({"path": "good.png", "output": "../out.png"}, "outside of the folders"),
        ({"path": "good.png", "output": "out-link"}, "outside of the folders"),
        ({"path": "good.png", "output": "folder-link"}, "outside of the folders"),
        ({"path": "good.png", "output": "good.png", "overwrite": True}, "replaced by its own cut-out"),
        ({"path": "good.png", "output": "out.bmp"}, "not as bmp"),
        ({"path": "good.png", "tier": "gold"}, "'basic', 'standard'"),
        ({"path": "good.png", "background": "whait"}, "background"),
        ({"path": "good.png", "preset": "amazn"}, "Did you mean amazon?"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(
    assistant: "Assistant", tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    here, out = assistant.folder, tmp_path / "out"
    out.mkdir()
    if not (here / "good.png").exists():
        (here / "good.png").write_bytes(photo_bytes())
        (here / f"{'n' * 245}.png").write_bytes(photo_bytes())
        (here / "text.txt").write_text("no picture")
        (here / "empty").mkdir()
        (here / "link.png").symlink_to(here.parent / "secret.png")
        os.mkfifo(here / "pipe.png")
        with (here / "huge.png").open("wb") as file:
            file.truncate(1_000_000_000)
    for name, target in (("out-link", out / "new.png"), ("folder-link", out)):
        (here / name).unlink(missing_ok=True)
        (here / name).symlink_to(target)
    tool = "make_listing_picture" if "preset" in arguments else "remove_background"
    assert said in assistant.refused(tool, **arguments)
    assert list(out.iterdir()) == []
    assert (here / "good.png").read_bytes() == photo_bytes()


def test_a_cancelled_call_writes_nothing_more(assistant: "Assistant", folder: Path) -> None:
    for number in range(10):
        (folder / f"{number}.png").write_bytes(photo_bytes(seed=number))
    reached = Path(f"{assistant.hold}.reached")
    assistant.hold.touch()
    try:
        running = assistant.start("remove_background", path=str(folder))
        wait_until(reached.exists)
        running.cancel()
        with suppress(CancelledError):
            running.result(PATIENCE)
        assistant.call("list_presets")  # by now the server has read that the call is cancelled
    finally:
        assistant.hold.unlink()
        reached.unlink(missing_ok=True)
    other = folder / "other.png"
    other.write_bytes(photo_bytes())
    assert assistant.call("remove_background", path=str(other))["made"] == 1
    assert not (folder / "cutouts").exists()


@pytest.mark.weights
def test_a_real_photo_is_cut_out(assistant: "Assistant", folder: Path) -> None:
    shutil.copy(DATA / "coffee.jpg", folder)
    (result,) = assistant.call("remove_background", path=str(folder / "coffee.jpg"), tier="preview")[
        "results"
    ]
    assert result["model"] == "u2netp"
    assert result["coverage"] == pytest.approx(0.476, abs=0.03)
    shutil.copy(DATA / "grass.jpg", folder)
    (result,) = assistant.call("remove_background", path=str(folder / "grass.jpg"), tier="preview")["results"]
    assert result["subject"] is None
    assert result["needs_review"] == ["No subject was found, so the image shows none."]


def test_a_folder_that_is_none_and_a_missing_extra_are_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cutout", "mcp", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 1
        return capsys.readouterr().err

    assert "is not a folder" in said("--folder", str(tmp_path / "none"))
    monkeypatch.delitem(sys.modules, "cutout.app.cli.mcp_server", raising=False)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    assert "pip install 'cutout-server[mcp]'" in said()


def test_the_folders_are_real_ones(tmp_path: Path) -> None:
    real, linked = tmp_path / "real", tmp_path / "linked"
    real.mkdir()
    linked.symlink_to(real)
    folders = Folders([linked])
    assert folders.resolve("a.png") == real / "a.png"
    assert folders.resolve(str(linked / "a.png")) == real / "a.png"
    assert not folders.contain(tmp_path / "really")
