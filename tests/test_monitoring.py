"""Alerts, dashboard and scaling ask for metrics that there are, and the documentation has what they say."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

import cutout.app.app  # noqa: F401 - with it all errors are known
from cutout.app.core.errors import server_faults
from tools.reference import all_metrics

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "deploy/prometheus"
RULES, ALERTS = (
    yaml.safe_load((PROMETHEUS / name).read_text())["groups"] for name in ("rules.yml", "alerts.yml")
)
DASHBOARD = json.loads((ROOT / "deploy/grafana/dashboards/cutout.json").read_text())
GUIDE = (ROOT / "docs/monitoring.md").read_text()
# Of Prometheus itself.
ITS_OWN = {"up", "ALERTS"}
NAME = re.compile(r"(?<![\w:$\"])(?:cutout[\w:]*|process_\w+|up|ALERTS)(?=[\s{\[()]|$)")


def rules(groups: list[Any]) -> list[dict[str, Any]]:
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield from (panel, *panel.get("panels", []))


def expressions() -> dict[str, str]:
    """Return every expression by where it stands."""
    found = {
        f"{rule.get('record') or rule['alert']} {n}": rule["expr"]
        for n, rule in enumerate(rules(RULES + ALERTS))
    }
    for panel in panels():
        for target in panel.get("targets", []):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for note in DASHBOARD["annotations"]["list"]:
        found[f"annotation {note['name']}"] = note["expr"]
    for file in sorted((ROOT / "deploy").rglob("keda*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            for trigger in document["spec"].get("triggers", []):
                if "query" in trigger["metadata"]:
                    found[f"{file.name} {trigger['type']}"] = trigger["metadata"]["query"]
    return found


def known_names() -> set[str]:
    """Return the names of all series, those of a histogram and a counter with their endings."""
    names = set(ITS_OWN) | {rule["record"] for rule in rules(RULES)}
    for metric in all_metrics():
        endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "info": ["_info"]}
        names |= {metric.name + ending for ending in endings.get(metric.type, [""])}
    return names


@pytest.mark.parametrize(("place", "expression"), expressions().items())
def test_what_is_asked_for_exists(place: str, expression: str) -> None:
    used = set(NAME.findall(re.sub(r"\"[^\"]*\"", '""', expression)))
    assert used or expression.startswith("vector("), f"{place} asks for nothing"
    assert used <= known_names()


def test_labels_that_are_asked_for_exist() -> None:
    labels: dict[str, set[str]] = {}
    for metric in all_metrics():
        for sample in metric.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    of_prometheus = {"job", "instance", "worker"}
    for place, expression in expressions().items():
        for name, selector in re.findall(r"(cutout_\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)\s*[=!]", selector))
            assert asked <= labels[name] | of_prometheus, f"{place}: {name} {asked}"


def test_each_alert_is_explained_tested_and_leads_to_its_explanation() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    names = [rule["alert"] for rule in rules(ALERTS)]
    assert len(names) == len(set(names)) > 20
    assert re.findall(r"^### (Cutout\w+)$", GUIDE, re.MULTILINE) == names
    for rule in rules(ALERTS):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["runbook_url"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert f'alertname="{rule["alert"]}"' in tests


def test_the_faults_of_the_service_are_those_that_the_code_knows() -> None:
    (ratio,) = (rule["expr"] for rule in rules(RULES) if rule["record"] == "cutout:job_faults:ratio_rate5m")
    (codes,) = re.findall(r'outcome=~"([^"]+)"', ratio)
    assert codes.split("|") == server_faults()


def test_the_dashboard_can_be_loaded() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["Is it up", "Latency", "Throughput", "Queue", "Device and models", "Money", "Errors"]
    assert {v["name"] for v in DASHBOARD["templating"]["list"]} == {"datasource"}
    for panel in panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["targets"]
    provider = yaml.safe_load((ROOT / "deploy/grafana/provisioning/dashboards/cutout.yml").read_text())
    assert provider["providers"][0]["options"]["path"] == "/var/lib/grafana/dashboards"
