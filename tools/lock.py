"""`python -m tools.lock`: write `requirements/*.lock`, the exact packages of an image with their SHA-256.

Versions follow from `pyproject.toml` and `constraints.txt`. uv resolves, since it writes one file for several versions of
Python and kinds of processor in seconds; pip installs the files with `--require-hashes`.
"""

import re
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "requirements"
# the extras of each lock
LOCKS = {
    "gpu": ("gpu", "npm", "otel"),
    "gpu-onnx": ("gpu-onnx", "npm", "otel"),
    "cpu": ("cpu", "npm", "otel"),
}
# cpu.lock without these: for hosts that have a torch without CUDA, whose SHA-256 is another one
SLIM = "cpu-slim"
CUDA = re.compile(r"^(torch|triton|nvidia-.*|cuda-.*)$")
OLDEST_PYTHON = "3.11"
SLIM_HEADER = """# cpu.lock without torch and what only its CUDA build needs. Install a torch without CUDA first, and then this file with
# --no-deps, since the rest of torch's packages is in it.
"""


class StaleConstraints(Exception):
    """`constraints.txt` lacks packages; the message has the lines to add."""


def main() -> None:
    """Write all locks."""
    for name, extras in LOCKS.items():
        compile_lock(FOLDER / f"{name}.lock", extras)
    blocks = read_blocks(FOLDER / "cpu.lock")
    kept = [block for name, block in blocks.items() if not CUDA.match(name)]
    (FOLDER / f"{SLIM}.lock").write_text(header(SLIM) + SLIM_HEADER + "".join(kept))
    missing = unconstrained()
    if missing:
        raise StaleConstraints("Add these lines to constraints.txt:\n" + "\n".join(missing))


def header(name: str) -> str:
    """Return the first line of a lock."""
    return f"# {name}.lock: written by `make lock` from pyproject.toml and constraints.txt.\n"


def compile_lock(path: Path, extras: tuple[str, ...]) -> None:
    """Resolve the dependencies with `extras`, and write them with their hashes."""
    flags = [flag for extra in extras for flag in ("--extra", extra)]
    output = subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet", "--universal"),
            *("--python-version", OLDEST_PYTHON, "--constraints", "constraints.txt", "--generate-hashes"),
            *("--no-header", "--no-annotate", "--no-emit-index-url", *flags),
        ],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    path.parent.mkdir(exist_ok=True)
    path.write_text(header(path.stem) + "".join(filter(for_linux, split(output).values())))


def for_linux(block: str) -> bool:
    """Return whether a package is for any image: Linux, on one of two kinds of processor."""
    marker = Requirement(block.splitlines()[0].rstrip(" \\")).marker
    images = (
        {"sys_platform": "linux", "platform_machine": machine, "python_full_version": python}
        for machine in ("x86_64", "aarch64")
        for python in (f"{OLDEST_PYTHON}.0", "3.14.0")
    )
    return marker is None or any(marker.evaluate(image) for image in images)


def read_blocks(path: Path) -> dict[str, str]:
    """Return a lock's text by package: the line of the version and those of its hashes."""
    return split(path.read_text())


def split(text: str) -> dict[str, str]:
    """Return the text of a lock by package."""
    blocks: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("#"):
            continue
        if not line.startswith(" "):
            name = canonicalize_name(line.split("==")[0])
            blocks[name] = ""
        blocks[name] += line
    return blocks


def pins(path: Path) -> dict[str, str]:
    """Return the version of each package in a lock."""
    versions = {}
    for name, block in read_blocks(path).items():
        requirement = Requirement(block.splitlines()[0].rstrip(" \\"))
        versions[name] = str(requirement.specifier).removeprefix("==")
    return versions


def constraints() -> dict[str, str]:
    """Return the version of each package in `constraints.txt`."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def unconstrained() -> list[str]:
    """Return a line for each package of the locks that `constraints.txt` does not have."""
    known = constraints()
    found = {name: version for lock in LOCKS for name, version in pins(FOLDER / f"{lock}.lock").items()}
    return [f"{name}=={version}" for name, version in sorted(found.items()) if name not in known]


if __name__ == "__main__":
    try:
        main()
    except StaleConstraints as error:
        sys.exit(str(error))
