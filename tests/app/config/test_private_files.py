"""Files of a host are private to its user: the data folder with its content, and files from earlier versions."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from cutout.app.app import create_app
from cutout.app.backup import FOLDERS
from cutout.app.config import settings as app_settings
from cutout.app.config.data_folder import keep_others_out, open_data_folder
from cutout.app.core.atomic_write import write_stream, write_whole
from cutout.app.storage.base import StorageUnusable
from cutout.app.storage.local import LocalStorage
from tests.fakes import fake_engine, photo_bytes


@pytest.fixture(autouse=True)
def _an_open_umask() -> Iterator[None]:
    """Set a umask that makes new files readable by all users, as a user's shell may."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of a folder and of everything below it."""
    return {
        str(path.relative_to(folder.parent)): oct(path.lstat().st_mode & 0o7777)
        for path in (folder, *folder.rglob("*"))
    }


def assert_private(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        assert path.lstat().st_mode & 0o7777 == (0o700 if path.is_dir() else 0o600), modes(folder)


def test_all_that_a_service_keeps_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "data"
    settings = app_settings.load(auth="off", data_dir=folder)
    with TestClient(
        create_app(settings, lambda _: fake_engine()), base_url="http://127.0.0.1:8000"
    ) as client:
        client.post("/api/background-remover/remove", files={"image": photo_bytes()}).raise_for_status()
        assert (folder / "cutout.db-wal").exists()
        assert list((folder / "results").iterdir())
        assert (folder / "secret").exists()
        assert_private(tmp_path / "deep")
    LocalStorage(folder).put_stream("uploads/some-batch/photo", [b"a", b"b"])
    assert_private(tmp_path / "deep")


def test_the_folders_of_a_service_do_not_make_its_data_folder_a_shared_one(tmp_path: Path) -> None:
    for name in FOLDERS:
        (tmp_path / "data" / name).mkdir(parents=True)
    keep_others_out(tmp_path / "data")
    assert_private(tmp_path / "data")


def old_folder(folder: Path) -> None:
    """Create a data folder as earlier versions did."""
    (folder / "results").mkdir(parents=True)
    (folder / "uploads/some-batch").mkdir(parents=True)
    for name in ("cutout.db", "cutout.db-wal", "results/a.png", "uploads/some-batch/photo"):
        (folder / name).write_bytes(b"")


def test_a_folder_of_an_earlier_version_is_closed(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    old_folder(folder)
    (folder / "service.log").write_text("beside it, by the same user")
    (folder / "service.log").chmod(0o600)
    assert oct(folder.stat().st_mode & 0o777) == "0o755"
    keep_others_out(folder)
    assert_private(folder)


@pytest.mark.parametrize("how", ["other folders in it", "a group's folder", "everybody's folder"])
def test_a_folder_that_is_shared_on_purpose_stays_so_and_what_is_ours_in_it_is_private(
    tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "data"
    old_folder(folder)
    if how == "other folders in it":
        (folder / "website").mkdir()
        (folder / "website/index.html").write_text("for everybody")
    folder.chmod({"a group's folder": 0o2775, "everybody's folder": 0o1777}.get(how, 0o755))
    before = folder.stat().st_mode
    with caplog.at_level("INFO"):
        keep_others_out(folder)
    assert folder.stat().st_mode == before
    assert "is shared" in caplog.text
    for name in ("results", "uploads"):
        assert_private(folder / name)
    assert (folder / "cutout.db").stat().st_mode & 0o777 == 0o600
    if how == "other folders in it":
        assert (folder / "website/index.html").stat().st_mode & 0o777 == 0o644


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    old_folder(folder)
    elsewhere.write_text("for everybody")
    (folder / "secret").symlink_to(elsewhere)
    (folder / "results/link.png").symlink_to(elsewhere)
    keep_others_out(folder)
    assert elsewhere.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_what_the_command_writes_keeps_the_users_umask(tmp_path: Path, umask: int) -> None:
    os.umask(umask)
    write_whole(tmp_path / "out/a.png", b"a")
    write_stream(tmp_path / "out/b.png", [b"b"])
    for name in ("a.png", "b.png"):
        assert (tmp_path / "out" / name).stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o777 & ~umask


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in its place")
    with pytest.raises(StorageUnusable, match=r"\(Not a directory\)\. Check CUTOUT_DATA_DIR"):
        open_data_folder(app_settings.load(data_dir=tmp_path / "file/data"))
