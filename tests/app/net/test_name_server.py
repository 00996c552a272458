"""Fetching photos with a real resolver, a real name server and real private addresses: hostile names gain nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.app.net.own_network import (
    ADDRESSES,
    METADATA,
    NAMES,
    NAT64,
    ONWARDS,
    PRIVATE,
    PRIVATE_6,
    PUBLIC,
    PUBLIC_6,
)
from tests.fakes import PATIENCE
from tests.namespaces import skip_unless_allowed

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
OWN_NETWORK = ["unshare", "--map-root-user", "--mount", "--net", "sh", "-ec"]
TRIAL = "ip link set lo up; ip addr add fd00::1/128 dev lo; mount --bind /etc/hosts /etc/hosts"
# Configuration of the system's resolver: files first, then the name server.
LOOKUP = {
    "resolv.conf": "nameserver 127.0.0.1\noptions timeout:2 attempts:2\n",
    "nsswitch.conf": "hosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n::1 localhost\n",
}
# Addresses of hostile names, which must not be called.
HOSTILE = {
    "loopback.example": {"127.0.0.1"},
    "private.example": {PRIVATE},
    "metadata.example": {METADATA},
    "loopback-6.example": {"::1"},
    "mapped.example": {"::ffff:127.0.0.1"},
    "nat64.example": {NAT64},
    "private-6.example": {PRIVATE_6},
    "both.example": {PUBLIC, PRIVATE},
    "both-kinds.example": {PUBLIC, PRIVATE_6},
    "alias.example": {"127.0.0.1"},
}
TURNING = {"turns.example", "turns-on-the-way.example"}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run `own_network` in its own network namespace, if the host allows one."""
    skip_unless_allowed([*OWN_NETWORK, TRIAL])
    folder = tmp_path_factory.mktemp("etc")
    script = "ip link set lo up; "
    script += "".join(
        f"ip addr add {address}/{128 if ':' in address else 32} dev lo; " for address in ADDRESSES
    )
    for name, text in LOOKUP.items():
        (folder / name).write_text(text)
        if Path("/etc", name).exists():
            script += f"mount --bind {folder / name} /etc/{name}; "
    script += f"exec {sys.executable} -m tests.app.net.own_network"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LOCALDOMAIN": "", "RES_OPTIONS": ""}
    done = subprocess.run(
        [*OWN_NETWORK, script],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # The log comes before the last line.
    return found


def refused(outcome: dict[str, Any]) -> bool:
    return "cannot be found, or is not on the public internet" in outcome["said"]


def test_every_name_is_here() -> None:
    assert NAMES.keys() == {"public.example", "public-6.example", *HOSTILE, *TURNING}


@pytest.mark.parametrize(("name", "address"), [("public.example", PUBLIC), ("public-6.example", PUBLIC_6)])
def test_a_public_name_is_fetched_from(told: dict[str, Any], name: str, address: str) -> None:
    assert told[name]["said"] == "photo"
    assert told[name]["asked"] == [[address, "/"]]
    assert told[name]["questions"] == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_that_leads_inside_is_refused(told: dict[str, Any], name: str) -> None:
    assert set(told[name]["found"]) == HOSTILE[name]
    for outcome in (told[name], told[name]["later"]):
        assert refused(outcome)
        assert outcome["asked"] == []
    # Only the SSRF check prevented the call: it succeeds when all networks are allowed.
    assert told[name]["allowed"]["said"] == "photo"
    assert told[name]["allowed"]["asked"]


def test_a_name_that_turns_private_is_called_where_it_was_checked(told: dict[str, Any]) -> None:
    turns, on_the_way = told["turns.example"], told["turns-on-the-way.example"]
    assert turns["said"] == "photo"
    assert turns["asked"] == [[PUBLIC, "/"]]
    assert turns["questions"] == 1
    assert refused(on_the_way)
    assert on_the_way["asked"] == [[PUBLIC, "/again"]]
    for name in TURNING:
        assert refused(told[name]["later"])
        assert told[name]["later"]["asked"] == []
        assert {address for address, _ in told[name]["allowed"]["asked"]} == {PRIVATE}


@pytest.mark.parametrize("host", ONWARDS)
def test_a_redirect_inside_is_refused(told: dict[str, Any], host: str) -> None:
    outcome = told[f"/to/{host}"]
    assert refused(outcome)
    assert outcome["asked"] == [[PUBLIC, f"/to/{host}"]]


def test_a_name_that_is_not_there_is_told_alike(told: dict[str, Any]) -> None:
    assert refused(told["nobody.example"])
    assert told["nobody.example"]["asked"] == []
