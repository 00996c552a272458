"""`systemctl` of a host that is a folder: `python -m tests.bare_host.systemctl ROOT enable --now UNIT…`, or `reload UNIT`.

It starts what the unit says, with the environment that systemd would give it and nothing else, and leaves the process id in
ROOT/run/UNIT.pid and its output in ROOT/log/UNIT.log. It restarts nothing.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.bare_host.env_files import as_systemd


def main(root: Path, command: str, *arguments: str) -> None:
    """Carry out a command of systemctl."""
    units = [argument for argument in arguments if not argument.startswith("-")]
    if command == "reload":
        for unit in units:
            _start(root, unit, *_packaged(root, unit))
    elif (command, arguments[0]) == ("enable", "--now"):
        for unit in units:
            _start(root, unit, *_from_unit(root, unit))
    else:
        sys.exit(f"systemctl: {command} {arguments}: not on this host")


def _packaged(root: Path, unit: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a service that came with a package."""
    file = root / "state/services" / f"{unit}.json"
    if not file.exists():
        sys.exit(f"Failed to reload {unit}.service: Unit {unit}.service not found.")
    command: list[str] = json.loads(file.read_text())
    return command, {}


def _from_unit(root: Path, unit: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a unit in /etc/systemd/system."""
    template, at, instance = unit.partition("@")
    file = root / "etc/systemd/system" / f"{template}{at}.service"
    if not file.exists():
        sys.exit(f"Failed to enable unit: Unit file {unit}.service does not exist.")
    entries = [line.partition("=")[::2] for line in file.read_text().splitlines() if line[:1] not in "#;["]
    environment: dict[str, str] = {}
    found = {}
    for name, value in entries:
        value = value.replace("%i", instance)
        if name == "Environment":
            environment |= dict([value.split("=", 1)])
        elif name == "EnvironmentFile":
            environment |= as_systemd((root / value[1:]).read_text())
        else:
            found[name] = value
    users = (root / "state/users").read_text().split()
    if found["User"] not in users:
        sys.exit(f"{unit}.service: Failed to determine user credentials: No such process")
    program, *arguments = shlex.split(found["ExecStart"])
    return [str(root / program[1:]), *arguments], environment


def _start(root: Path, unit: str, command: list[str], environment: dict[str, str]) -> None:
    passed = {
        name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ
    }
    with (root / "log" / f"{unit}.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**passed, "HOME": str(root / "var/cache/cutout"), **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=root,
            start_new_session=True,
        )
    (root / "run" / f"{unit}.pid").write_text(str(process.pid))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
