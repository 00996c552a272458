"""The locks of the images hold what `pyproject.toml` asks for, in the versions that the tests passed with."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import lock

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = {canonicalize_name(distribution.name): distribution for distribution in distributions()}
FILES = sorted(lock.FOLDER.glob("*.lock"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_version_is_that_of_the_constraints(path: Path) -> None:
    known = lock.constraints()
    different = {name: version for name, version in lock.pins(path).items() if known.get(name) != version}
    assert different == {}, "run: make lock"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_package_has_hashes(path: Path) -> None:
    blocks = lock.read_blocks(path)
    assert len(blocks) > 50
    for name, block in blocks.items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", block), name


@pytest.mark.parametrize("name", lock.LOCKS)
def test_what_the_project_asks_for_is_in_the_lock(name: str) -> None:
    wanted = list(PROJECT["dependencies"])
    for extra in lock.LOCKS[name]:
        wanted += PROJECT["optional-dependencies"][extra]
    assert missing(wanted, lock.pins(lock.FOLDER / f"{name}.lock")) == [], "run: make lock"


def test_the_slim_lock_lacks_only_torch_and_cuda() -> None:
    whole, slim = (lock.pins(lock.FOLDER / f"{name}.lock") for name in ("cpu", lock.SLIM))
    left_out = {name for name in whole if name not in slim}
    assert {"torch", "triton", "nvidia-cudnn-cu13"} < left_out
    assert all(name in ("torch", "triton") or name.startswith(("nvidia-", "cuda-")) for name in left_out)


def test_no_address_of_an_index_is_in_a_lock() -> None:
    for path in FILES:
        assert "://" not in path.read_text()


def test_the_constraints_have_everything_that_the_project_asks_for() -> None:
    wanted = [*PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += extra
    assert missing(wanted, lock.constraints()) == []


def test_the_constraints_have_everything_that_is_installed_for_the_project() -> None:
    """What somebody has installed beside it is none of the project's."""
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in PROJECT["optional-dependencies"].values():
        wanted += map(Requirement, extra)
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) not in seen and name in INSTALLED:
            seen.add((name, extras))
            found[name] = INSTALLED[name]
            wanted += [
                other
                for other in map(Requirement, INSTALLED[name].requires or ())
                if other.marker is None or any(other.marker.evaluate({"extra": one}) for one in {"", *extras})
            ]
    assert len(found) > 80
    known = lock.constraints()
    versions = {name: one.version.split("+")[0] for name, one in found.items()}
    different = [f"{name}=={version}" for name, version in versions.items() if known.get(name) != version]
    assert sorted(different) == [], "add these lines to constraints.txt"


def missing(requirements: Iterable[str], pins: dict[str, str]) -> list[str]:
    """Return the requirements that no pinned version fulfils, apart from those of other systems than Linux."""
    return [
        line
        for line in requirements
        for requirement in [Requirement(line)]
        if (requirement.marker is None or requirement.marker.evaluate({"sys_platform": "linux", "extra": ""}))
        and not requirement.specifier.contains(pins.get(canonicalize_name(requirement.name), "0"))
    ]
