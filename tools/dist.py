"""`python -m tools.dist`: build a release into `dist/`: wheel, sdist, bill of materials, notes and SHA256SUMS.

It builds what is committed, in a folder of its own, with the time of the commit: the same commit gives the same wheel.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tools import release_notes, sbom
from tools.sbom import DIST

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Build everything; an old `dist/` is removed first."""
    if _git("status", "--porcelain"):
        print("Not everything is committed; the release has only what is.", file=sys.stderr)
    os.environ["SOURCE_DATE_EPOCH"] = _git("log", "-1", "--format=%ct")
    base = os.environ.get("NOTES_BASE", "")
    text = release_notes.notes(release_notes.CHANGELOG.read_text(), sbom.VERSION, base)
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(  # nosec B607 # the git of whoever releases
            ["git", "archive", "HEAD"], cwd=ROOT, check=True, stdout=subprocess.PIPE
        ).stdout
        unpack(archive, Path(folder))
        build(Path(folder), DIST)
    sbom.write(DIST)
    (DIST / "notes.md").write_text(text + "\n")
    write_sums(DIST)
    print(*sorted(path.name for path in DIST.iterdir()), sep="\n")


def unpack(archive: bytes, folder: Path) -> None:
    """Unpack what git has archived."""
    with tempfile.TemporaryFile() as file:
        file.write(archive)
        file.seek(0)
        with tarfile.open(fileobj=file) as tar:
            tar.extractall(folder, filter="data")


def build(source: Path, out: Path) -> None:
    """Build the wheel and the sdist of a folder, with the setuptools of this environment."""
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--sdist", "--outdir", out, source],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, as `sha256sum --check` reads it."""
    files = sorted(path for path in folder.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    told = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return told.stdout.strip()


if __name__ == "__main__":
    main()
