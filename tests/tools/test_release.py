"""A release: its version, its notes, its files."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest
import yaml  # type: ignore[import-untyped]
from packaging.version import Version

from tools import dist, lock, release_notes

ROOT = Path(__file__).parents[2]
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- One more [thing](docs/api.md#how-often), see [elsewhere](https://example.org/) and [below](#unreleased).

## [1.1.0] - 2026-12-24

- Second.

## [1.0.0] - 2026-11-26

- First.
"""


def test_the_changelog_has_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert str(Version(version)) == version
    headings = [one["version"] for one in release_notes.HEADING.finditer(release_notes.CHANGELOG.read_text())]
    assert headings[0] == "Unreleased"
    assert headings[1] == version
    assert release_notes.notes(release_notes.CHANGELOG.read_text(), version)


def test_notes_are_the_section_of_their_version() -> None:
    assert release_notes.notes(CHANGELOG, "1.1.0") == "- Second."
    assert release_notes.notes(CHANGELOG, "1.0.0") == "- First."


def test_relative_links_of_notes_lead_to_the_repository() -> None:
    text = release_notes.notes(CHANGELOG, "Unreleased", base="https://git.example/blob/v1/")
    assert "](https://git.example/blob/v1/docs/api.md#how-often)" in text
    assert "](https://example.org/)" in text
    assert "](#unreleased)" in text


@pytest.mark.parametrize("version", ["2.0.0", "1.0"])
def test_a_version_without_notes_is_an_error(version: str) -> None:
    with pytest.raises(release_notes.NoSuchRelease, match="Add the section"):
        release_notes.notes(CHANGELOG, version)


def test_an_empty_section_is_an_error() -> None:
    with pytest.raises(release_notes.NoSuchRelease):
        release_notes.notes("## [Unreleased]\n\n## [1.0.0] - 2026-11-26\n\n- First.\n", "Unreleased")


def test_the_sums_are_those_that_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "b.whl").write_bytes(b"wheel")
    (tmp_path / "a.json").write_bytes(b"{}")
    dist.write_sums(tmp_path)
    dist.write_sums(tmp_path)  # its own sum is not among them
    lines = [f"{sha256(b'{}').hexdigest()}  a.json", f"{sha256(b'wheel').hexdigest()}  b.whl"]
    assert (tmp_path / "SHA256SUMS").read_text().splitlines() == lines


@pytest.mark.slow
def test_two_builds_of_one_commit_give_the_same_wheel(tmp_path: Path) -> None:
    """The second is built from files with other times, in another folder."""
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    wheels = []
    for number in range(2):
        source, out = tmp_path / f"source{number}", tmp_path / f"out{number}"
        source.mkdir()
        out.mkdir()
        for name in ("cutout", "models"):
            shutil.copytree(
                ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).write_bytes((ROOT / name).read_bytes())
        for path in source.rglob("*"):
            os.utime(path, (1_500_000_000 + 1000 * number,) * 2, follow_symlinks=False)
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1700000000"}
        command = [sys.executable, "-c", build, str(out)]
        subprocess.run(command, cwd=source, env=environment, check=True, capture_output=True)
        (wheel,) = out.glob("*.whl")
        wheels.append(wheel.read_bytes())
    assert wheels[0] == wheels[1]


def test_the_images_of_a_release_are_built_with_arguments_that_there_are() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["image"]
    arguments = {
        line.split("=")[0]
        for step in job["steps"]
        for line in step.get("with", {}).get("build-args", "").splitlines()
    }
    assert arguments == {"LOCK", "DEVICE"}
    assert arguments <= set(re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile.gpu").read_text(), re.MULTILINE))
    for image in job["strategy"]["matrix"]["include"]:
        assert image["lock"] in lock.LOCKS
