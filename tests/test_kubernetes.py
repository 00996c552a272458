"""The Kubernetes manifests match the code and each other; `make lint` checks their schemas."""

import ipaddress
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml  # type: ignore[import-untyped]

from cutout.app.app import create_app
from cutout.app.cli import cli
from cutout.app.config import settings
from cutout.app.core.shutdown import StopTimes

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy/kubernetes"
IMAGE = (ROOT / "Dockerfile.gpu").read_text()
# Random enough for the checks of secrets; the example leaves them empty.
FILLED = {"CUTOUT_SECRET": "c" * 64, "CUTOUT_METRICS_TOKEN": "t" * 64}


def objects() -> Iterator[dict[str, Any]]:
    """Yield the objects of all files that kustomization.yaml names, which are all there are."""
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    named = kustomization["resources"]
    assert {file.name for file in FOLDER.glob("*.yaml")} == {"kustomization.yaml", *named}
    for name in named:
        yield from yaml.safe_load_all((FOLDER / name).read_text())


ALL = {(one["kind"], one["metadata"]["name"]): one for one in objects()}
PODS = {
    one["metadata"]["name"]: one["spec"]["template"]
    for one in ALL.values()
    if one["kind"] in ("Deployment", "StatefulSet", "Job")
}
OURS = ["cutout-api", "cutout-worker", "cutout-migrate"]


def env_file(name: str) -> dict[str, str]:
    """Return the variables of an env file as kustomize reads it."""
    lines = (FOLDER / name).read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def container(pod: str) -> dict[str, Any]:
    """Return the only container of a pod."""
    (found,) = PODS[pod]["spec"]["containers"]
    return found  # type: ignore[no-any-return]


@pytest.mark.parametrize("pod", OURS)
def test_the_settings_of_a_pod_are_accepted(pod: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {variable["name"]: variable["value"] for variable in container(pod).get("env", ())}
    secrets = env_file("secrets.example.env")
    assert FILLED.keys() < secrets.keys()
    for name, value in (env_file("settings.env") | secrets | FILLED | own).items():
        monkeypatch.setenv(name, value)
    if PODS[pod]["spec"].get("enableServiceLinks", True):
        for service in (name for kind, name in ALL if kind == "Service"):
            monkeypatch.setenv(f"{service.upper().replace('-', '_')}_PORT", "tcp://10.0.0.1:80")
    loaded = settings.load()
    assert loaded.auth == "on"
    assert loaded.database_url
    assert loaded.redis_url
    assert loaded.s3_bucket
    # Results would be lost with a pod otherwise, and found by no other.
    sources = [next(iter(one)) for one in container(pod)["envFrom"]]
    assert sources == ["configMapRef", "secretRef"]


def test_the_settings_that_are_commented_out_exist() -> None:
    known = (ROOT / "docs/settings.md").read_text()
    for name in ("settings.env", "secrets.example.env"):
        named = re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (FOLDER / name).read_text(), re.MULTILINE)
        assert [one for one in named if f"`{one}`" not in known] == []


@pytest.mark.parametrize("pod", OURS)
def test_a_pod_runs_a_command_that_there_is_and_has_time_to_stop(pod: str) -> None:
    (command,) = container(pod)["args"]
    assert command in typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    if pod != "cutout-migrate":
        assert PODS[pod]["spec"]["terminationGracePeriodSeconds"] > StopTimes().whole


@pytest.mark.parametrize("pod", PODS)
def test_a_pod_has_no_rights_and_writes_to_volumes_only(pod: str) -> None:
    spec, runs = PODS[pod]["spec"], container(pod)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert runs["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert runs["resources"]["limits"]["memory"]
    if pod in OURS:
        user = re.findall(r"^USER (\d+):(\d+)$", IMAGE, re.MULTILINE)[-1]
        assert user == (str(spec["securityContext"]["runAsUser"]), str(spec["securityContext"]["runAsGroup"]))
    volumes = {volume["name"] for volume in spec["volumes"]}
    if claims := ALL.get(("StatefulSet", pod), {}).get("spec", {}).get("volumeClaimTemplates"):
        volumes |= {claim["metadata"]["name"] for claim in claims}
    mounts = {mount["name"]: mount["mountPath"] for mount in runs["volumeMounts"]}
    assert mounts.keys() == volumes
    needed = {"valkey": {"/data"}, "cutout-migrate": {"/data", "/tmp"}}
    assert set(mounts.values()) == needed.get(pod, {"/models", "/data", "/tmp"})


def test_one_worker_has_one_gpu_and_the_service_none() -> None:
    assert container("cutout-worker")["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in container("cutout-api")["resources"]["limits"]
    assert {"name": "CUTOUT_API_ENGINE", "value": "queue"} in container("cutout-api")["env"]


def test_probes_ask_for_what_the_service_has() -> None:
    paths = create_app(settings.load(auth="off")).openapi()["paths"]
    runs = container("cutout-api")
    ports = {port["name"]: port["containerPort"] for port in runs["ports"]}
    assert ports == {"http": settings.load(auth="off").port}
    assert runs["readinessProbe"]["httpGet"]["path"] in paths
    # A service without workers or storage is not ready, but a restart would not give it any.
    for probe in ("startupProbe", "livenessProbe"):
        assert runs[probe].keys() & {"httpGet", "tcpSocket", "exec"} == {"tcpSocket"}


def test_services_policies_and_budgets_name_pods_that_there_are() -> None:
    labels = {template["metadata"]["labels"]["app"]: name for name, template in PODS.items()}
    assert all(app == name for app, name in labels.items())
    for (kind, name), one in ALL.items():
        if kind == "Service":
            assert one["spec"]["selector"]["app"] in labels
            for port in one["spec"].get("ports", ()):
                named = {
                    open_port["name"] for open_port in container(one["spec"]["selector"]["app"])["ports"]
                }
                assert port["targetPort"] in named
        elif kind == "PodDisruptionBudget":
            assert one["spec"]["selector"]["matchLabels"]["app"] == name
        elif kind == "NetworkPolicy":
            selected = one["spec"]["podSelector"].get("matchLabels", {}).get("app")
            assert selected is None or selected in labels
            open_ports = {port["name"] for port in container(selected)["ports"]} if selected else set()
            named = {port["port"] for rule in one["spec"].get("ingress", ()) for port in rule["ports"]}
            assert named <= open_ports
    (rule,) = ALL["Ingress", "cutout"]["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert ("Service", path["backend"]["service"]["name"]) in ALL
    assert f"https://{rule['host']}" == env_file("settings.env")["CUTOUT_PUBLIC_URL"]
    assert re.fullmatch(r"redis://valkey:6379", env_file("settings.env")["REDIS_URL"])


def test_metrics_of_a_worker_are_where_its_port_is() -> None:
    runs = container("cutout-worker")
    (port,) = runs["ports"]
    assert {"name": "CUTOUT_WORKER_METRICS_PORT", "value": str(port["containerPort"])} in runs["env"]


def test_an_upload_that_the_service_takes_passes_the_ingress() -> None:
    annotations = ALL["Ingress", "cutout"]["metadata"]["annotations"]
    limit = annotations["nginx.ingress.kubernetes.io/proxy-body-size"]
    assert int(limit.removesuffix("m")) > settings.load(auth="off").max_batch_mb
    waits = int(annotations["nginx.ingress.kubernetes.io/proxy-read-timeout"])
    assert waits > settings.load(auth="off").deadline_seconds


def test_only_the_metadata_server_is_closed_to_the_pods() -> None:
    (blocks, _) = ALL["NetworkPolicy", "cutout"]["spec"]["egress"]
    for to in blocks["to"]:
        whole = ipaddress.ip_network(to["ipBlock"]["cidr"])
        assert whole.prefixlen == 0
        assert all(ipaddress.ip_network(one).subnet_of(whole) for one in to["ipBlock"]["except"])  # type: ignore[arg-type]


def test_keda_scales_the_workers_on_metrics_that_there_are() -> None:
    scaled = ALL["ScaledObject", "cutout-worker"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    # The fields of KEDA's own schema that are used; one that it does not know would be refused.
    assert scaled["spec"].keys() <= {
        "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "idleReplicaCount", "pollingInterval",
        "cooldownPeriod", "initialCooldownPeriod", "fallback", "advanced", "triggers",
    }  # fmt: skip
    target = scaled["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in ALL
    # Without a worker, the service is not ready, and nothing would ever wait.
    assert scaled["spec"]["minReplicaCount"] >= 1
    (trigger,) = scaled["spec"]["triggers"]
    assert trigger["type"] == "prometheus"
    assert trigger["metadata"].keys() == {"serverAddress", "query", "threshold"}
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    metrics = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE))
    asked = re.findall(r"cutout_\w+", trigger["metadata"]["query"])
    assert asked
    assert set(asked) <= metrics
