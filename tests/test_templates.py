"""The one-click templates are well-formed and set what the code knows; no platform has run them here."""

import re
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml  # type: ignore[import-untyped]

from cutout.app.config import settings

DEPLOY = Path(__file__).parents[1] / "deploy"
IMAGE = (DEPLOY.parent / "Dockerfile.gpu").read_text()


def load(variables: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return settings.load()


def test_unraids_template(monkeypatch: pytest.MonkeyPatch) -> None:
    template = ElementTree.parse(DEPLOY / "unraid/cutout.xml").getroot()
    assert (template.tag, template.get("version")) == ("Container", "2")
    configs = template.findall("Config")
    by_type: dict[str, dict[str, str]] = {"Port": {}, "Path": {}, "Variable": {}}
    for config in configs:
        # Unraid shows the default where the value is missing.
        assert config.get("Default") == (config.text or "")
        by_type[config.attrib["Type"]][config.attrib["Target"]] = config.text or ""
    loaded = load(by_type["Variable"], monkeypatch)
    assert loaded.auth == "on"
    assert [int(port) for port in by_type["Port"]] == [loaded.port]
    assert f"[PORT:{loaded.port}]" in template.findtext("WebUI", "")
    volumes = re.findall(r'"(/\w+)"', re.findall(r"^VOLUME (.*)$", IMAGE, re.MULTILINE)[-1])
    assert list(by_type["Path"]) == volumes
    secret = [config for config in configs if config.get("Target") == "HF_TOKEN"]
    assert [config.get("Mask") for config in secret] == ["true"]
    for option in (
        "--read-only",
        "--cap-drop=ALL",
        "--security-opt=no-new-privileges:true",
        "--runtime=nvidia",
    ):
        assert option in template.findtext("ExtraParams", "").split()


def test_caprovers_one_click_app(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (DEPLOY / "caprover/cutout.yml").read_text()
    app = yaml.safe_load(text)
    assert app["captainVersion"] == 4
    about = app["caproverOneClickApp"]
    assert about.keys() == {
        "variables",
        "instructions",
        "displayName",
        "isOfficial",
        "description",
        "documentation",
    }
    assert about["instructions"].keys() == {"start", "end"}
    given = {variable["id"]: str(variable["defaultValue"]) for variable in about["variables"]}
    # CapRover fills these in.
    given |= {"$$cap_appname": "cutout", "$$cap_root_domain": "example.com"}
    used = set(re.findall(r"\$\$cap_(?!gen)\w+", text))
    assert used == given.keys()
    assert given["$$cap_secret"] == "$$cap_gen_random_hex(64)"
    given["$$cap_secret"] = "0" * 64
    for variable in about["variables"]:
        if pattern := variable.get("validRegex"):
            assert re.search(pattern.strip("/"), given[variable["id"]])

    def filled(value: str) -> str:
        return re.sub(r"\$\$cap_\w+", lambda found: given[found[0]], value)

    (service,) = app["services"].values()
    loaded = load({name: filled(value) for name, value in service["environment"].items()}, monkeypatch)
    assert loaded.auth == "on"
    assert loaded.public_url == "https://cutout.example.com"
    assert int(service["caproverExtra"]["containerHttpPort"]) == loaded.port
    volumes = re.findall(r'"(/\w+)"', re.findall(r"^VOLUME (.*)$", IMAGE, re.MULTILINE)[-1])
    assert [volume.partition(":")[2] for volume in service["volumes"]] == volumes
